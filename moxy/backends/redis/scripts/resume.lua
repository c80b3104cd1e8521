-- MOXY.RESUME: lease again. Whoever waits is told.

verbs.resume = function()
  if paused then
    emit('QueueResumed')
    paused = false
    made_ready = call('ZCARD', READY)
  end
  return ''
end
