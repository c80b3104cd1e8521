-- MOXY.PEEK: number, record and payload of the first tasks of one state. ARGV: state, count.

local line = ({ready = READY, scheduled = SCHEDULED, processing = PROCESSING, dead = DEAD})[ARGV[ARG + 1]]
local found = {}
for _, of in ipairs(call('ZRANGE', line, 0, tonumber(ARGV[ARG + 2]) - 1)) do
  local n = line == READY and of or number_in(of)
  found[#found + 1] = {n, call('HGET', TASKS, n), call('HGET', PAYLOADS, n)}
end
return answer(found)
