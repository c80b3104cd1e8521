-- Time passed: due work, at most COUNT_MAX tasks of it, and when to look again. ARGV: chance for jitter.

if next_due() > 0 and next_due() <= now_ms then drain() end
local done = do_due_work(tonumber(ARGV[ARG + 1]))
-- Every server looks at `told_ms`, and learns here when to look next: nobody need be told.
local due_ms = next_due()
if due_ms ~= told_ms and seq == first_seq and call('EXISTS', META) == 1 then
  call('HDEL', META, 'told_ms')
  if due_ms > 0 then call('HSET', META, 'told_ms', number(due_ms)) end
end
told_ms = due_ms
return answer(number(done))
