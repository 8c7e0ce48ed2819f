-- ARGV: retry, id, lease in us or '', number of fields, fields and values by turns, then what set_aside reads, if any.
local id, num_fields = ARGV[2], tonumber(ARGV[4])
local given, fields = {}, {}
for place = 5, 4 + 2 * num_fields do
  fields[#fields + 1] = ARGV[place]
end
for place = 1, #fields, 2 do
  given[fields[place]] = fields[place + 1]
end

if redis.call('EXISTS', job_key(id)) == 1 then
  local there = redis.call('HMGET', job_key(id), 'spec', 'created_at', 'tenant')
  if IS_RETRY and there[1] == given.spec and there[2] == given.created_at and there[3] == given.tenant then
    return {'ok'}
  end
  return {'exists', id}
end
if given.idempotency_key then
  local other = redis.call('HGET', ROOT .. 'idempotency:' .. given.tenant, given.idempotency_key)
  if other then
    return {'exists', other}
  end
end
if #ARGV > 4 + 2 * num_fields then
  local refusal = set_aside(id, 5 + 2 * num_fields)
  if refusal then
    return refusal
  end
end

redis.call('HSET', job_key(id), unpack(fields))
if given.idempotency_key then
  redis.call('HSET', ROOT .. 'idempotency:' .. given.tenant, given.idempotency_key, id)
end
if given.batch then
  redis.call('ZADD', ROOT .. 'batch:' .. given.batch, 0, id)
end
local job = load_job(id)
redis.call('ZADD', ROOT .. 'all', 0, id)
redis.call('ZADD', ROOT .. 'all:' .. job.tenant, 0, id)
index_state(job)
if job.is_cancel_wanted and not IS_TERMINAL[job.state] then
  redis.call('SADD', ROOT .. 'cancel', id)
end
if ARGV[3] ~= '' then
  give(job, given.owner or '', tonumber(ARGV[3]), '')
elseif job.state == 'queued' or job.state == 'running' then
  enter_queue(job)
  redis.call('HSET', job_key(id), 'at', job.at)
end
return {'ok'}
