-- ARGV: retry, kind, lower and upper bound of keys, limit. Returns keys and values by turns, last key first.
local found = {}
local names = redis.call('ZREVRANGEBYLEX', ROOT .. 'document_names:' .. ARGV[2], ARGV[4], ARGV[3], 'LIMIT', 0, ARGV[5])
for _, name in ipairs(names) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('HGET', ROOT .. 'documents:' .. ARGV[2], name)
end
return found
