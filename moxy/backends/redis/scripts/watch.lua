-- A server waits for something ready here. ARGV: its id, how long its place in the line stands without being renewed.
-- The answer is 1 when there is something already (or soon: see told_ms), 0 when it stands in line now.

if not paused and call('ZCARD', READY) > 0 then
  call('ZREM', WAITING, ARGV[ARG + 1])
  return answer('1')
end
drain()
call('ZADD', WAITING, clock_ms + tonumber(ARGV[ARG + 2]), ARGV[ARG + 1])
return answer('0')
