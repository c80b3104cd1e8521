-- MOXY.SHOW: the record and payload of one task, and the policy's maximum of attempts. Arguments: id.

verbs.show = function(at)
  local n = number_of(ARGV[at + 1])
  if not n then return {} end
  return {n, call('HGET', TASKS, n), call('HGET', PAYLOADS, n), policy().max_attempts}
end
