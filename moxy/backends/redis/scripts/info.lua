-- MOXY.INFO: counts, policy, totals, and when the oldest ready task got its place ("": none is ready).

local oldest, oldest_ms = nil, ''
for rank = 0, PRIORITY_MAX do
  local n = call('ZRANGEBYSCORE', READY, rank * PLACE_BITS, '(' .. number((rank + 1) * PLACE_BITS), 'LIMIT', 0, 1)[1]
  if n then
    local t = task_of(n)
    if not oldest or t.place < oldest then oldest, oldest_ms = t.place, number(t.placed_ms) end
  end
end
local values = {}
for i, field in ipairs(POLICY_FIELDS) do values[i] = number(policy()[field]) end
return answer({
  paused and 1 or 0, call('ZCARD', SCHEDULED), call('ZCARD', READY), call('ZCARD', PROCESSING), call('ZCARD', DEAD),
  oldest_ms, number(next_due()), call('ZCARD', REMEMBERED), number(at_ms), number(born_ms), values,
  call('HMGET', META, 'enqueued', 'matured', 'leased', 'extended', 'acked', 'expired', 'failed', 'released', 'requeued',
    'dead_lettered', 'redriven', 'deleted'),
  call('HGET', META, 'epoch') or '0'
})
