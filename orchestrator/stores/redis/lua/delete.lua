-- ARGV: retry, id.
local job = load_job(ARGV[2])
if not job then
  return {'ok'}
end
local names = redis.call('HMGET', job_key(job.id), 'batch', 'idempotency_key')
leave(job)
forget_state(job)
redis.call('ZREM', ROOT .. 'all', job.id)
redis.call('ZREM', ROOT .. 'all:' .. job.tenant, job.id)
give_back(job.id)
if names[1] then
  redis.call('ZREM', ROOT .. 'batch:' .. names[1], job.id)
end
if names[2] then
  redis.call('HDEL', ROOT .. 'idempotency:' .. job.tenant, names[2])
end
redis.call('SREM', ROOT .. 'cancel', job.id)
redis.call('DEL', job_key(job.id), ROOT .. 'rows:' .. job.id)
redis.call('PUBLISH', ROOT .. 'news:' .. job.id, 'gone')
return {'ok'}
