-- MOXY.SHOW: the record and payload of one task, and the policy's maximum of attempts. ARGV: id.

local n = number_of(ARGV[ARG + 1])
if not n then return answer({}) end
return answer({n, call('HGET', TASKS, n), call('HGET', PAYLOADS, n), number(policy().max_attempts)})
