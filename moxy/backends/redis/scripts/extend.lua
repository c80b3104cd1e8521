-- MOXY.EXTEND: hold it until later. Arguments: task number, token, lease id, lease_ms.

verbs.extend = function(at)
  local t, code, text = held(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not t then return nil, code, text end
  local deadline_ms = now_ms + tonumber(ARGV[at + 4])
  if deadline_ms <= t.deadline_ms then return t.deadline_ms end
  local cap_ms = policy().max_hold_ms
  if cap_ms > 0 and deadline_ms - t.leased_ms > cap_ms then
    return nil, 'MAXHOLD', 'a lease is held at most ' .. number(cap_ms) .. ' ms here: at most ' ..
      number(math.max(t.leased_ms + cap_ms - now_ms, 0)) .. ' more can be asked for'
  end
  emit('Extended', 'number', t.n, 'task_id', t.id, 'lease_id', t.lease_id, 'deadline_ms', deadline_ms)
  t.deadline_ms = deadline_ms
  call('ZADD', PROCESSING, deadline_ms, member(t.token, t.n))
  keep(t)
  count('extended')
  return deadline_ms
end
