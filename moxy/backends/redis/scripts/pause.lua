-- MOXY.PAUSE: lease nothing new.

verbs.pause = function()
  if not paused then
    be_born()
    emit('QueuePaused')
    paused = true
  end
  return ''
end
