-- A lease is given back without being asked for: its connection closed, or its reply could not be written.
-- ARGV: task number, token, lease id, cause.

local t, refusal = held(ARGV[ARG + 1], ARGV[ARG + 2], ARGV[ARG + 3])
if not t then return refusal end
drain()
release(t, ARGV[ARG + 4])
return answer('')
