-- MOXY.PURGE: remove every task of one state, in one event. Arguments: state.
-- The one verb whose work grows with the queue: it is atomic, so it cannot be done in slices.

verbs.purge = function(at)
  local line = ({ready = READY, scheduled = SCHEDULED, dead = DEAD})[ARGV[at + 1]]
  local gone = call('ZCARD', line)
  if gone == 0 then return 0 end
  emit('Purged', 'state', ARGV[at + 1], 'count', gone)
  for _, of in ipairs(call('ZRANGE', line, 0, -1)) do
    forget(task_of(line == READY and of or number_in(of)))
  end
  count('deleted', gone)
  return gone
end
