-- MOXY.CONFIG queue field value ...: set fields of the policy together. Arguments: field, value, ...

verbs.configure = function(at, words)
  local changed, fields = false, {}
  for _, field in ipairs(POLICY_FIELDS) do fields[field] = policy()[field] end
  for i = at + 1, at + words, 2 do fields[ARGV[i]] = tonumber(ARGV[i + 1]) end
  for _, field in ipairs(POLICY_FIELDS) do changed = changed or fields[field] ~= policy()[field] end
  if changed then emit_configured(fields) end
  return ''
end
