-- MOXY.RESUME: lease again. Whoever waits is told.

if paused then
  drain()
  emit('QueueResumed')
  paused = false
  made_ready = call('ZCARD', READY)
end
return answer('')
