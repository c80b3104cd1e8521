-- MOXY.NACK: not done. Arguments: task number, token, lease id, kind (retry, fatal or release), delay_ms (-1: the backoff
-- decides), reason, chance for jitter.

verbs.nack = function(at)
  local t, code, text = held(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not t then return nil, code, text end
  local kind, delay_ms, reason = ARGV[at + 4], tonumber(ARGV[at + 5]), ARGV[at + 6]
  if kind == 'release' then
    release(t, 'worker')
    return ''
  end
  local attempts = (t.attempts or 0) + 1
  emit('Failed', 'number', t.n, 'task_id', t.id, 'lease_id', t.lease_id, 'reason', reason, 'attempts', attempts)
  leave(t)
  t.state, t.attempts, t.failures = '', attempts, (t.failures or 0) + 1
  t.ended, t.nack_reason = 'failed', reason ~= '' and reason or nil
  if reason ~= '' then t.last_reason = reason end
  count('failed')
  if kind == 'fatal' then
    bury(t, 'fatal', reason ~= '' and reason or 'fatal')
  else
    requeue(t, delay_ms >= 0 and delay_ms or nil, tonumber(ARGV[at + 7]))
  end
  return ''
end
