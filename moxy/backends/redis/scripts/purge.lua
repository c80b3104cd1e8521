-- MOXY.PURGE: remove every task of one state, in one event. ARGV: state.
-- The one verb whose work grows with the queue: it is atomic, so it cannot be done in slices.

local line = ({ready = READY, scheduled = SCHEDULED, dead = DEAD})[ARGV[ARG + 1]]
local gone = call('ZCARD', line)
if gone == 0 then return answer('0') end
drain()
emit('Purged', 'state', ARGV[ARG + 1], 'count', gone)
for _, of in ipairs(call('ZRANGE', line, 0, -1)) do
  forget(task_of(line == READY and of or number_in(of)))
end
count('deleted', gone)
return answer(number(gone))
