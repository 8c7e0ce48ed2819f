-- The beginning of every script: the server's clock, the keys, and the moves of jobs. The layout is in keys.py.
-- KEYS[1] is the root of all keys; ARGV[1] is '1' if an earlier try of this call may have been carried out already.
local ROOT, IS_RETRY = KEYS[1], ARGV[1] == '1'
local TIME = redis.call('TIME')
local NOW_US = tonumber(TIME[1]) * 1000000 + tonumber(TIME[2])
local NOW = string.format('%s.%06d', TIME[1], tonumber(TIME[2]))
local STATES = {'queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled'}
local IS_TERMINAL = {succeeded = true, failed = true, cancelled = true}

local function job_key(id)
  return ROOT .. 'job:' .. id
end

local function whole(number)
  return string.format('%.0f', number)
end

local function load_job(id)
  local fields = redis.call('HMGET', job_key(id), 'state', 'epoch', 'next', 'tenant', 'place', 'at', 'owner',
    'lease_us', 'lease_until_us', 'is_cancel_wanted')
  if not fields[1] then
    return nil
  end
  return {
    id = id, state = fields[1], epoch = tonumber(fields[2]), next = tonumber(fields[3]), tenant = fields[4],
    place = fields[5], at = fields[6], owner = fields[7] or '', lease_us = tonumber(fields[8]),
    lease_until_us = tonumber(fields[9]), is_cancel_wanted = fields[10] == '1',
  }
end

local function tell_work()
  redis.call('PUBLISH', ROOT .. 'work', '')
end

local function tell_news(job)
  redis.call('PUBLISH', ROOT .. 'news:' .. job.id, whole(job.next) .. ' ' .. job.state)
end

-- Keeps `heads`, the first waiting job of each tenant, true after a change of the tenant's queue.
local function renew_head(tenant)
  local head = redis.call('ZRANGE', ROOT .. 'queue:' .. tenant, 0, 0)[1]
  local old = redis.call('HGET', ROOT .. 'head_of', tenant) or nil
  if head == old then
    return
  end
  if old then
    redis.call('ZREM', ROOT .. 'heads', old)
  end
  if head then
    redis.call('ZADD', ROOT .. 'heads', 0, head)
    redis.call('HSET', ROOT .. 'head_of', tenant, head)
  else
    redis.call('HDEL', ROOT .. 'head_of', tenant)
  end
end

-- Takes a job out of the queue, or away from its holder; the caller writes job.at.
local function leave(job)
  if job.at == 'queue' then
    redis.call('ZREM', ROOT .. 'queue:' .. job.tenant, job.place)
    renew_head(job.tenant)
  elseif job.at == 'held' then
    redis.call('ZREM', ROOT .. 'held', job.id)
    if redis.call('HINCRBY', ROOT .. 'num_held', job.tenant, -1) <= 0 then
      redis.call('HDEL', ROOT .. 'num_held', job.tenant)
    end
    redis.call('SREM', ROOT .. 'owner:' .. job.owner, job.id)
    if redis.call('EXISTS', ROOT .. 'owner:' .. job.owner) == 0 then
      redis.call('SREM', ROOT .. 'owners', job.owner)
    end
  end
  job.at = 'none'
end

local function enter_queue(job)
  redis.call('ZADD', ROOT .. 'queue:' .. job.tenant, 0, job.place)
  renew_head(job.tenant)
  job.at = 'queue'
  tell_work()
end

local function renew_lease(job)
  job.lease_until_us = NOW_US + job.lease_us
  redis.call('ZADD', ROOT .. 'held', whole(job.lease_until_us), job.id)
end

local function enter_held(job)
  renew_lease(job)
  redis.call('HINCRBY', ROOT .. 'num_held', job.tenant, 1)
  redis.call('SADD', ROOT .. 'owner:' .. job.owner, job.id)
  redis.call('SADD', ROOT .. 'owners', job.owner)
  job.at = 'held'
end

local function index_state(job)
  redis.call('ZADD', ROOT .. 'state:' .. job.state, 0, job.id)
  redis.call('ZADD', ROOT .. 'state:' .. job.state .. ':' .. job.tenant, 0, job.id)
end

local function forget_state(job)
  redis.call('ZREM', ROOT .. 'state:' .. job.state, job.id)
  redis.call('ZREM', ROOT .. 'state:' .. job.state .. ':' .. job.tenant, job.id)
end

local function change_state(job, state)
  if state ~= job.state then
    forget_state(job)
    job.state = state
    index_state(job)
  end
end

-- Puts a job where its state belongs: held while it runs, in the queue when it is queued, else nowhere.
local function place_by_state(job)
  if job.state == 'running' then
    if job.at == 'held' then
      renew_lease(job)
    else
      leave(job)
      enter_held(job)
    end
    return
  end
  job.lease_until_us = 0
  if job.state ~= 'queued' then
    leave(job)
  elseif job.at ~= 'queue' then
    leave(job)
    enter_queue(job)
  end
end

-- Gives a job to an owner; writes it, and returns the new epoch.
local function give(job, owner, lease_us, call)
  leave(job)
  change_state(job, 'running')
  job.owner, job.lease_us, job.epoch = owner, lease_us, job.epoch + 1
  enter_held(job)
  redis.call('HSET', job_key(job.id), 'state', job.state, 'epoch', whole(job.epoch), 'owner', owner, 'at', job.at,
    'updated_at', NOW, 'lease_us', whole(lease_us), 'lease_until_us', whole(job.lease_until_us), 'call', call)
  tell_news(job)
  return job.epoch
end

-- A job whose holder is gone waits in the queue again; its record stays as it is until somebody takes it.
local function take_from_holder(id)
  local job = load_job(id)
  if not job then -- somebody else has removed its key
    redis.call('ZREM', ROOT .. 'held', id)
    return
  end
  leave(job)
  enter_queue(job)
  redis.call('HSET', job_key(id), 'at', job.at)
end

local function newest_ids(key, before, limit)
  return redis.call('ZREVRANGEBYLEX', key, before, '-', 'LIMIT', 0, limit)
end

local function unknown()
  return {'unknown', newest_ids(ROOT .. 'all', '+', 5)}
end
