-- MOXY.ACK: done. Arguments: task number, token, lease id.

verbs.ack = function(at)
  local t, code, text = held(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not t then return nil, code, text end
  emit('Acked', 'number', t.n, 'task_id', t.id, 'lease_id', t.lease_id)
  forget(t)
  count('acked')
  return ''
end
