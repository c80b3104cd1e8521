-- Bound leases of a server that is no more: released, charged, at most COUNT_MAX. Arguments: the server's id.
-- In the order of their deadlines, then tokens, as when a server with a log of its own starts again.

verbs.orphans = function(at)
  local holder, held_by_it = ARGV[at + 1], {}
  for i, of in ipairs(call('ZRANGEBYLEX', BOUND, '[' .. holder .. ':', '(' .. holder .. ';', 'LIMIT', 0, COUNT_MAX)) do
    held_by_it[i] = task_of(number_in(of))
  end
  table.sort(held_by_it, function(a, b)
    if a.deadline_ms ~= b.deadline_ms then return a.deadline_ms < b.deadline_ms end
    return a.token < b.token
  end)
  for _, t in ipairs(held_by_it) do release(t, 'disconnect') end
  return #held_by_it
end
