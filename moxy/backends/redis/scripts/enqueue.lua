-- MOXY.ENQUEUE and MOXY.MENQUEUE: new tasks, all or none. The answer is the id that is known already, or nothing: the ids
-- of new tasks are in their events.
-- Arguments: id ("": made here), priority, delay_ms, ttl_ms (-1: as the policy says), max_attempts (-1), lease_ms,
-- dedup_ms, then a nonce and a payload for each task.

verbs.enqueue = function(at, words)
  local id, priority, delay_ms = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local ttl_ms, max_attempts = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local lease_ms, dedup_ms = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local first = at + 8

  if id ~= '' and knows(id) then return {id} end
  if full then return nil, 'BACKEND', full end

  local wanted, bound = (at + words - first + 1) / 2, policy().max_ready
  if bound > 0 then
    local waiting = call('ZCARD', READY) + call('ZCARD', SCHEDULED)
    if waiting + wanted > bound then
      return nil, 'FULL', waiting .. ' tasks wait and max_ready is ' .. bound ..
        ': try again when workers have caught up'
    end
  end
  if ttl_ms == -1 then ttl_ms = policy().ttl_ms end
  be_born()

  -- An automatic id that the queue does not know: a client may have chosen one of that shape. No other task has it, as
  -- none has had its number.
  local function free_id(n, nonce)
    local made = n .. '-' .. nonce
    while keeps_ids() and (call('HEXISTS', IDS, made) == 1 or remembered(made)) do
      nonce = string.sub(nonce, 1, 8) .. string.format('%08x', (tonumber(string.sub(nonce, 9), 16) + 1) % 2 ^ 32)
      made = n .. '-' .. nonce
    end
    return made
  end

  local due_ms = delay_ms > 0 and now_ms + delay_ms or 0
  local expires_ms = ttl_ms > 0 and now_ms + ttl_ms or 0
  local told_due_ms, told_expires_ms = number(due_ms), number(expires_ms)
  for i = first, at + words, 2 do
    local n, payload = number(next_number), ARGV[i + 1]
    local t = {n = n, id = id, place = next_number, placed_ms = now_ms, enqueued_ms = now_ms}
    if id ~= '' then t.named = true else t.id = free_id(n, ARGV[i]) end
    if priority > 0 then t.priority = priority end
    if expires_ms > 0 then t.expires_ms = expires_ms end
    if max_attempts >= 0 then t.max_attempts = max_attempts end
    if lease_ms > 0 then t.lease_ms = lease_ms end
    if dedup_ms > 0 then t.dedup_ms = dedup_ms end
    emit('Enqueued', 'number', n, 'task_id', t.id, 'priority', ARGV[at + 2], 'due_ms', told_due_ms, 'expires_ms',
      told_expires_ms, 'max_attempts', ARGV[at + 5], 'lease_ms', ARGV[at + 6], 'dedup_ms', ARGV[at + 7],
      'payload', payload)
    next_number = next_number + 1
    call('HSET', PAYLOADS, n, payload)
    if t.named then keep_id(t) end
    wait_in_line(t, due_ms)
    keep(t)
    count('enqueued')
  end

  -- Ids whose window has passed are let go a few at a time, so that the memory of them stays in step.
  if keeps_ids() then
    for _, gone in ipairs(call('ZRANGEBYSCORE', REMEMBERED, '-inf', NOW, 'LIMIT', 0, 4)) do
      call('ZREM', REMEMBERED, gone)
    end
  end
  return {}
end
