-- MOXY.STATS: the counts.

verbs.stats = function()
  return {call('ZCARD', READY), call('ZCARD', PROCESSING), call('ZCARD', DEAD)}
end
