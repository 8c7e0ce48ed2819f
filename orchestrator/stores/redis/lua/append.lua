-- ARGV: retry, id, epoch, position of the first row or '', state or '', result or '', what it says the job has
-- cost, seconds that the journals of finished jobs are kept or '', then rows.
local id, epoch, first, state, result = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local HEAD, CHUNK = 8, 1000
local num_rows = #ARGV - HEAD
local rows_key = ROOT .. 'rows:' .. id

-- Whether an earlier try has written just these rows.
local function is_written(job)
  if not IS_RETRY or first + num_rows ~= job.next then
    return false
  end
  for place, row in ipairs(redis.call('LRANGE', rows_key, first, -1)) do
    if row ~= ARGV[HEAD + place] then
      return false
    end
  end
  return true
end

local job = load_job(id)
if not job then
  return {'gone'}
end
if epoch < 1 or job.epoch ~= epoch then
  return {'lost', job.epoch, job.next}
end
if first and first ~= job.next then
  return is_written(job) and {'ok'} or {'lost', job.epoch, job.next}
end

for start = HEAD + 1, #ARGV, CHUNK do
  redis.call('RPUSH', rows_key, unpack(ARGV, start, math.min(start + CHUNK - 1, #ARGV)))
end
job.next = job.next + num_rows
local old, was_at = job.state, job.at
if state ~= '' then
  change_state(job, state)
end
place_by_state(job)
if was_at == 'held' and job.at == 'none' and redis.call('HEXISTS', ROOT .. 'head_of', job.tenant) == 1 then
  tell_work() -- the tenant may have had as many jobs running as it is allowed
end
redis.call('HSET', job_key(id), 'next', whole(job.next), 'state', job.state, 'at', job.at, 'updated_at', NOW,
  'lease_until_us', whole(job.lease_until_us))
if result ~= '' then
  redis.call('HSET', job_key(id), 'result', result, 'cost', ARGV[7])
end
if job.state ~= old then
  if IS_TERMINAL[job.state] then
    redis.call('SREM', ROOT .. 'cancel', id)
  elseif job.is_cancel_wanted then
    redis.call('SADD', ROOT .. 'cancel', id)
  end
  if ARGV[8] ~= '' then
    if IS_TERMINAL[job.state] then
      redis.call('EXPIRE', rows_key, ARGV[8])
    else
      redis.call('PERSIST', rows_key)
    end
  end
end
if IS_TERMINAL[job.state] then
  settle(id, vector(redis.call('HGET', job_key(id), 'cost') or ''))
end
if num_rows > 0 or state ~= '' or result ~= '' then
  tell_news(job)
end
return {'ok'}
