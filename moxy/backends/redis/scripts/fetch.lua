-- MOXY.FETCH: due work first, then leases of the first tasks of the order. The answer is, for each Leased in its order,
-- what that event does not say of the task.
-- Arguments: lease_ms (0: the task's own, else the policy's), worker, holder ("": not bound; else the server's id),
-- chance for jitter, then a nonce for each task wanted.

verbs.fetch = function(at, words)
  local lease_ms, worker, holder = tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local chance, first = tonumber(ARGV[at + 4]), at + 5

  do_due_work(chance)

  local deliveries = {}
  for i = first, at + words do
    if paused then break end
    local n = call('ZRANGE', READY, 0, 0)[1]
    if not n then break end
    local t = task_of(n)
    local token = math.max(last_token, token_floor, epoch == SEEN_EPOCH and SEEN_TOKEN or 0) + 1
    local hold_ms = lease_ms > 0 and lease_ms or t.lease_ms or policy().lease_ms
    local deadline_ms = now_ms + hold_ms
    local told_token, told_deadline_ms = number(token), number(deadline_ms)
    local lease_id = QUEUE .. ':' .. n .. ':' .. told_token .. ':' .. ARGV[i]
    emit('Leased', 'number', n, 'task_id', t.id, 'lease_id', lease_id, 'token', told_token, 'deadline_ms',
      told_deadline_ms, 'worker', worker, 'bound', holder ~= '' and '1' or '0')
    leave(t)
    made_ready = made_ready - 1
    last_token = token
    t.state, t.token, t.lease_id, t.deadline_ms, t.leased_ms = 'processing', token, lease_id, deadline_ms, now_ms
    t.deliveries = (t.deliveries or 0) + 1
    if worker ~= '' then t.worker = worker end
    call('ZADD', PROCESSING, told_deadline_ms, member(token, n))
    if holder ~= '' then
      t.bound = holder
      call('ZADD', BOUND, 0, holder .. ':' .. n)
    end
    keep(t)
    due_by(deadline_ms)
    count('leased')
    deliveries[#deliveries + 1] = {
      call('HGET', PAYLOADS, n), t.attempts or 0, t.deliveries, t.priority or 0, t.enqueued_ms
    }
  end
  return deliveries
end
