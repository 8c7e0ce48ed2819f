-- ARGV: retry, upper bound of ids, limit, then conditions by name and value: state, tenant, batch.
local before, limit, wanted = ARGV[2], tonumber(ARGV[3]), {}
for place = 4, #ARGV, 2 do
  wanted[ARGV[place]] = ARGV[place + 1]
end

local PAGE = 256

-- The jobs of a batch that meet the other conditions.
local function newest_of_batch()
  local ids = {}
  repeat
    local page = newest_ids(ROOT .. 'batch:' .. wanted.batch, before, PAGE)
    for _, id in ipairs(page) do
      local job = load_job(id)
      local is_wanted = (not wanted.state or job.state == wanted.state)
        and (not wanted.tenant or job.tenant == wanted.tenant)
      if is_wanted and #ids < limit then
        ids[#ids + 1] = id
      end
    end
    before = '(' .. (page[#page] or '')
  until #page < PAGE or #ids >= limit
  return ids
end

local ids
local suffix = wanted.tenant and ':' .. wanted.tenant or ''
if limit <= 0 then
  ids = {}
elseif wanted.batch then
  ids = newest_of_batch()
else
  local index = wanted.state and 'state:' .. wanted.state or 'all'
  ids = newest_ids(ROOT .. index .. suffix, before, limit)
end
local jobs = {}
for place, id in ipairs(ids) do
  jobs[place] = redis.call('HGETALL', job_key(id))
end
return jobs
