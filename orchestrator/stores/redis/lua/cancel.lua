-- ARGV: retry, id. Returns the record as it is afterwards.
local job = load_job(ARGV[2])
if not job then
  return unknown()
end
if not IS_TERMINAL[job.state] and not job.is_cancel_wanted then
  redis.call('HSET', job_key(job.id), 'is_cancel_wanted', '1', 'updated_at', NOW)
  redis.call('SADD', ROOT .. 'cancel', job.id)
  tell_work()
  tell_news(job)
end
return {'ok', redis.call('HGETALL', job_key(job.id))}
