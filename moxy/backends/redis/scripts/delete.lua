-- MOXY.DELETE: remove one task. ARGV: id.

local n = number_of(ARGV[ARG + 1])
if not n then return answer('0') end
local t = task_of(n)
if t.state == 'processing' then
  return refuse('LEASED', 'the task is under a live lease: wait until it ends, or ACK it')
end
drain()
emit('Deleted', 'number', n, 'task_id', t.id)
forget(t)
count('deleted')
return answer('1')
