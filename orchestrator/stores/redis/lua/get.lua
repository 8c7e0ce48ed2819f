-- ARGV: retry, id. Returns the record's fields and values by turns.
local fields = redis.call('HGETALL', job_key(ARGV[2]))
if #fields == 0 then
  return unknown()
end
return {'ok', fields}
