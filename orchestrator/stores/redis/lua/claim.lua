-- ARGV: retry, id, owner, lease in us, whether by force, an owner who is known to be dead.
local job = load_job(ARGV[2])
if not job then
  return unknown()
end
local owner = ARGV[3]
local is_free = job.owner == '' or job.owner == owner or job.owner == ARGV[6] or NOW_US >= job.lease_until_us
if IS_TERMINAL[job.state] or not (is_free or ARGV[5] == '1') then
  return {'held', job.state, job.owner, whole(job.lease_until_us - NOW_US)}
end
return {'ok', give(job, owner, tonumber(ARGV[4]), '')}
