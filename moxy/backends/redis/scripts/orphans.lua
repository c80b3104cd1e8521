-- Bound leases of a server that is no more: released, charged, at most COUNT_MAX. Arguments: the server's id.

verbs.orphans = function(at)
  local holder, done = ARGV[at + 1], 0
  for _, of in ipairs(call('ZRANGEBYLEX', BOUND, '[' .. holder .. ':', '(' .. holder .. ';', 'LIMIT', 0, COUNT_MAX)) do
    release(task_of(number_in(of)), 'disconnect')
    done = done + 1
  end
  return done
end
