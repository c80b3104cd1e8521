-- Bound leases of a server that is no more: released, charged, at most COUNT_MAX of them. ARGV: the server's id.

local holder, done = ARGV[ARG + 1], 0
for _, of in ipairs(call('ZRANGEBYLEX', BOUND, '[' .. holder .. ':', '(' .. holder .. ';', 'LIMIT', 0, COUNT_MAX)) do
  if done == 0 then drain() end
  release(task_of(number_in(of)), 'disconnect')
  done = done + 1
end
return answer(number(done))
