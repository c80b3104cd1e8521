-- MOXY.PEEK: number, record and payload of the first tasks of one state. Arguments: state, count.

verbs.peek = function(at)
  local line = ({ready = READY, scheduled = SCHEDULED, processing = PROCESSING, dead = DEAD})[ARGV[at + 1]]
  local found = {}
  for _, of in ipairs(call('ZRANGE', line, 0, tonumber(ARGV[at + 2]) - 1)) do
    local n = line == READY and of or number_in(of)
    found[#found + 1] = {n, call('HGET', TASKS, n), call('HGET', PAYLOADS, n)}
  end
  return found
end
