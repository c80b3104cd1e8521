-- MOXY.CONFIG queue field value ...: set fields of the policy together. ARGV: field, value, ...

local changed, fields = false, {}
for _, field in ipairs(POLICY_FIELDS) do fields[field] = policy()[field] end
for i = ARG + 1, #ARGV, 2 do fields[ARGV[i]] = tonumber(ARGV[i + 1]) end
for _, field in ipairs(POLICY_FIELDS) do changed = changed or fields[field] ~= policy()[field] end
if changed then
  drain()
  emit_configured(fields)
end
return answer('')
