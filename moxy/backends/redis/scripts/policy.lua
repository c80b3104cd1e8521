-- MOXY.CONFIG queue: the policy, field by field.

local values = {}
for i, field in ipairs(POLICY_FIELDS) do values[i] = number(policy()[field]) end
return answer(values)
