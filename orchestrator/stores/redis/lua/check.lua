-- ARGV: retry, id. Returns what contradicts the job's record, or ''.
local id = ARGV[2]
local job = load_job(id)
local function is_in(key, member)
  return redis.call('ZSCORE', ROOT .. key, member) ~= false
end
if not job then
  local is_left = redis.call('EXISTS', ROOT .. 'rows:' .. id) == 1 or is_in('all', id) or is_in('held', id)
  return is_left and 'it has no record' or '' -- deleted in the meantime
end
local num_rows = redis.call('LLEN', ROOT .. 'rows:' .. id)
if num_rows ~= job.next and not (num_rows == 0 and IS_TERMINAL[job.state]) then
  return string.format('%d rows, its record says %d', num_rows, job.next)
end
if job.next > 0 and job.epoch == 0 then
  return 'rows that nobody can have written'
end
if not (is_in('all', id) and is_in('all:' .. job.tenant, id)) then
  return 'it is missing among all jobs'
end
for _, state in ipairs(STATES) do
  local is_listed = is_in('state:' .. state, id) and is_in('state:' .. state .. ':' .. job.tenant, id)
  local is_half_listed = is_in('state:' .. state, id) or is_in('state:' .. state .. ':' .. job.tenant, id)
  if is_listed ~= is_half_listed or is_listed ~= (state == job.state) then
    return 'it is ' .. job.state .. ', the lists of ' .. state .. ' jobs are wrong'
  end
end
if is_in('queue:' .. job.tenant, job.place) ~= (job.at == 'queue') then
  return 'its place is ' .. job.at .. ', the queue is wrong'
end
local is_owned = redis.call('SISMEMBER', ROOT .. 'owner:' .. job.owner, id) == 1
if is_in('held', id) ~= (job.at == 'held') or is_owned ~= (job.at == 'held') then
  return 'its place is ' .. job.at .. ', the leases are wrong'
end
local is_right = job.at == 'none'
if job.state == 'queued' then
  is_right = job.at == 'queue'
elseif job.state == 'running' then
  is_right = job.at == 'queue' or job.at == 'held'
end
if not is_right then
  return 'it is ' .. job.state .. ' and its place is ' .. job.at
end
local head = redis.call('ZRANGE', ROOT .. 'queue:' .. job.tenant, 0, 0)[1]
if head and not is_in('heads', head) then
  return 'its tenant is missing among those who wait'
end
local is_cancelling = redis.call('SISMEMBER', ROOT .. 'cancel', id) == 1
if is_cancelling ~= (job.is_cancel_wanted and not IS_TERMINAL[job.state]) then
  return 'the list of jobs to be cancelled is wrong'
end
return ''
