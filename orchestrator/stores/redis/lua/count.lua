-- ARGV: retry, '' or ':' and a tenant. Returns states and numbers by turns.
local counts = {}
for _, state in ipairs(STATES) do
  counts[#counts + 1] = state
  counts[#counts + 1] = redis.call('ZCARD', ROOT .. 'state:' .. state .. ARGV[2])
end
return counts
