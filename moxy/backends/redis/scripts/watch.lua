-- A server waits for something ready here. Arguments: its id, how long its place in the line stands unless renewed.
-- The answer is 1 when there is something already (or soon: see told_ms), 0 when it stands in line now.

verbs.watch = function(at)
  if not paused and call('ZCARD', READY) > 0 then
    call('ZREM', WAITING, ARGV[at + 1])
    return 1
  end
  call('ZADD', WAITING, clock_ms + tonumber(ARGV[at + 2]), ARGV[at + 1])
  return 0
end
