-- MOXY.CONFIG queue: the policy, field by field.

verbs.policy = function()
  local values = {}
  for i, field in ipairs(POLICY_FIELDS) do values[i] = policy()[field] end
  return values
end
