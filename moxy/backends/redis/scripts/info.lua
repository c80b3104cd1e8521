-- MOXY.INFO: counts, policy, totals, and when the oldest ready task got its place (0: none is ready).

verbs.info = function()
  local oldest, oldest_ms = nil, 0
  for rank = 0, PRIORITY_MAX do
    local n = call('ZRANGEBYSCORE', READY, rank * PLACE_BITS, '(' .. number((rank + 1) * PLACE_BITS), 'LIMIT', 0, 1)[1]
    if n then
      local t = task_of(n)
      if not oldest or t.place < oldest then oldest, oldest_ms = t.place, t.placed_ms end
    end
  end
  local values = {}
  for i, field in ipairs(POLICY_FIELDS) do values[i] = policy()[field] end
  local counted = call('HMGET', META, unpack(TOTALS))
  for i, what in ipairs(TOTALS) do counted[i] = (tonumber(counted[i]) or 0) + (totals[what] or 0) end
  return {
    paused and 1 or 0, call('ZCARD', SCHEDULED), call('ZCARD', READY), call('ZCARD', PROCESSING), call('ZCARD', DEAD),
    oldest_ms, next_due(), call('ZCARD', REMEMBERED), at_ms, born_ms, values,
    counted,
    seq, last_token, epoch
  }
end
