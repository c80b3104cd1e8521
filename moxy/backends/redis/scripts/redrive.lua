-- MOXY.REDRIVE: dead tasks get another life at the end of the line. Arguments: count, id ("": the oldest deaths).

verbs.redrive = function(at)
  local most, id, chosen = tonumber(ARGV[at + 1]), ARGV[at + 2], {}
  if id ~= '' then
    local n = number_of(id)
    local t = n and task_of(n)
    if not t or t.state ~= 'dead' then
      local what = t and 'it is ' .. t.state or 'the queue does not know it'
      return nil, 'NOTASK', 'no dead task has that id: ' .. what
    end
    chosen[1] = n
  else
    for i, of in ipairs(call('ZRANGE', DEAD, 0, most - 1)) do chosen[i] = number_in(of) end
  end
  for _, n in ipairs(chosen) do
    local t = task_of(n)
    local expires_ms = (t.expires_ms or 0) > now_ms and t.expires_ms or 0
    emit('Redriven', 'number', n, 'task_id', t.id, 'place', next_number, 'expires_ms', expires_ms)
    leave(t)
    t.place, t.placed_ms, t.expires_ms = next_number, now_ms, expires_ms > 0 and expires_ms or nil
    t.cause, t.reason, t.died_ms, t.death_seq, t.attempts = nil, nil, nil, nil, nil
    next_number = next_number + 1
    wait_in_line(t, 0)
    keep(t)
    count('redriven')
  end
  return #chosen
end
