-- ARGV: retry, owner, lease in us, most jobs of a tenant or '', a name for this call, the beginning of the names of
-- owners on this host, whether they are asked for (they are always told when there is no job), then owners who are
-- known to be dead.
local owner, lease_us, most, call, host = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local HEAD, MOST_EXPIRED, PAGE = 7, 100, 32

local function neighbours()
  local found = {}
  for _, name in ipairs(redis.call('SMEMBERS', ROOT .. 'owners')) do
    if name ~= owner and string.sub(name, 1, #host) == host then
      found[#found + 1] = name
    end
  end
  return found
end

local function given(id, epoch)
  return {'ok', epoch, redis.call('HGETALL', job_key(id)), ARGV[HEAD] == '1' and neighbours() or {}}
end

if IS_RETRY then
  for _, id in ipairs(redis.call('SMEMBERS', ROOT .. 'owner:' .. owner)) do
    local was = redis.call('HMGET', job_key(id), 'call', 'epoch')
    if was[1] == call then
      return given(id, tonumber(was[2]))
    end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ROOT .. 'held', '-inf', whole(NOW_US), 'LIMIT', 0, MOST_EXPIRED)) do
  take_from_holder(id)
end
for place = HEAD + 1, #ARGV do
  for _, id in ipairs(redis.call('SMEMBERS', ROOT .. 'owner:' .. ARGV[place])) do
    take_from_holder(id)
  end
end

local offset = 0
repeat
  local heads = redis.call('ZRANGE', ROOT .. 'heads', offset, offset + PAGE - 1)
  for _, head in ipairs(heads) do
    local job = load_job(string.sub(head, 33))
    local num_held = job and tonumber(redis.call('HGET', ROOT .. 'num_held', job.tenant) or '0')
    if job and (not most or num_held < most) then
      return given(job.id, give(job, owner, lease_us, call))
    end
  end
  offset = offset + PAGE
until #heads < PAGE

local earliest = redis.call('ZRANGE', ROOT .. 'held', 0, 0, 'WITHSCORES')
return {'none', earliest[2] and whole(tonumber(earliest[2]) - NOW_US) or '', neighbours()}
