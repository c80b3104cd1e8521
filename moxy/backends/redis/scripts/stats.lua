-- MOXY.STATS: the counts.

return answer({call('ZCARD', READY), call('ZCARD', PROCESSING), call('ZCARD', DEAD)})
