-- MOXY.EXTEND: hold it until later. ARGV: task number, token, lease id, lease_ms.

local t, refusal = held(ARGV[ARG + 1], ARGV[ARG + 2], ARGV[ARG + 3])
if not t then return refusal end
local deadline_ms = now_ms + tonumber(ARGV[ARG + 4])
if deadline_ms <= t.deadline_ms then return answer(number(t.deadline_ms)) end
local cap_ms = policy().max_hold_ms
if cap_ms > 0 and deadline_ms - t.leased_ms > cap_ms then
  return refuse('MAXHOLD', 'a lease is held at most ' .. number(cap_ms) .. ' ms here: at most ' ..
    number(math.max(t.leased_ms + cap_ms - now_ms, 0)) .. ' more can be asked for')
end
drain()
emit('Extended', 'number', t.n, 'task_id', t.id, 'lease_id', t.lease_id, 'deadline_ms', deadline_ms)
t.deadline_ms = deadline_ms
call('ZADD', PROCESSING, deadline_ms, member(t.token, t.n))
keep(t)
count('extended')
return answer(number(deadline_ms))
