-- MOXY.ENQUEUE and MOXY.MENQUEUE: new tasks, all or none.
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

  -- An automatic id that the queue does not know: a client may have chosen one of that shape.
  local function free_id(n, nonce)
    local made = n .. '-' .. nonce
    while knows(made) do
      nonce = string.sub(nonce, 1, 8) .. string.format('%08x', (tonumber(string.sub(nonce, 9), 16) + 1) % 2 ^ 32)
      made = n .. '-' .. nonce
    end
    return made
  end

  local ids = {}
  for i = first, at + words, 2 do
    local n, payload = number(next_number), ARGV[i + 1]
    local t = {n = n, id = id, place = next_number, placed_ms = now_ms, enqueued_ms = now_ms}
    if id ~= '' then t.named = true else t.id = free_id(n, ARGV[i]) end
    if priority > 0 then t.priority = priority end
    if ttl_ms > 0 then t.expires_ms = now_ms + ttl_ms end
    if max_attempts >= 0 then t.max_attempts = max_attempts end
    if lease_ms > 0 then t.lease_ms = lease_ms end
    if dedup_ms > 0 then t.dedup_ms = dedup_ms end
    local due_ms = delay_ms > 0 and now_ms + delay_ms or 0
    emit('Enqueued', 'number', n, 'task_id', t.id, 'payload', payload, 'priority', priority, 'due_ms', due_ms,
      'expires_ms', t.expires_ms or 0, 'max_attempts', max_attempts, 'lease_ms', lease_ms, 'dedup_ms', dedup_ms)
    next_number = next_number + 1
    call('HSET', PAYLOADS, n, payload)
    if t.named then
      call('HSET', IDS, t.id, n)
      call('ZREM', REMEMBERED, t.id)
    end
    wait_in_line(t, due_ms)
    keep(t)
    count('enqueued')
    ids[#ids + 1] = t.id
  end

  -- Ids whose window has passed are let go a few at a time, so that the memory of them stays in step.
  for _, gone in ipairs(call('ZRANGEBYSCORE', REMEMBERED, '-inf', now_ms, 'LIMIT', 0, 4)) do
    call('ZREM', REMEMBERED, gone)
  end
  return ids
end
