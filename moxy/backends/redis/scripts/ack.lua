-- MOXY.ACK: done. ARGV: task number, token, lease id.

local t, refusal = held(ARGV[ARG + 1], ARGV[ARG + 2], ARGV[ARG + 3])
if not t then return refusal end
drain()
emit('Acked', 'number', t.n, 'task_id', t.id, 'lease_id', t.lease_id)
forget(t)
count('acked')
return answer('')
