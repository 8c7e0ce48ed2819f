-- ARGV: retry, kind, key, value or ''.
local values, names = ROOT .. 'documents:' .. ARGV[2], ROOT .. 'document_names:' .. ARGV[2]
if ARGV[4] == '' then
  redis.call('HDEL', values, ARGV[3])
  redis.call('ZREM', names, ARGV[3])
else
  redis.call('HSET', values, ARGV[3], ARGV[4])
  redis.call('ZADD', names, 0, ARGV[3])
end
return {'ok'}
