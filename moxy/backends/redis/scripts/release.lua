-- A lease is given back without being asked for: its connection closed, or its reply could not be written.
-- Arguments: task number, token, lease id, cause.

verbs.release = function(at)
  local t, code, text = held(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not t then return nil, code, text end
  release(t, ARGV[at + 4])
  return ''
end
