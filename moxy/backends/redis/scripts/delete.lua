-- MOXY.DELETE: remove one task. Arguments: id.

verbs.delete = function(at)
  local n = number_of(ARGV[at + 1])
  if not n then return 0 end
  local t = task_of(n)
  if t.state == 'processing' then
    return nil, 'LEASED', 'the task is under a live lease: wait until it ends, or ACK it'
  end
  emit('Deleted', 'number', n, 'task_id', t.id)
  forget(t)
  count('deleted')
  return 1
end
