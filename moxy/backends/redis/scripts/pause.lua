-- MOXY.PAUSE: lease nothing new.

if not paused then
  drain()
  be_born()
  emit('QueuePaused')
  paused = true
end
return answer('')
