-- ARGV: retry, tenant, idempotency key.
local id = redis.call('HGET', ROOT .. 'idempotency:' .. ARGV[2], ARGV[3])
if not id then
  return {'none'}
end
return {'ok', redis.call('HGETALL', job_key(id))}
