-- ARGV: retry, version of the data as this program writes it. Returns the version that the data has.
redis.call('HSETNX', ROOT .. 'meta', 'schema', ARGV[2])
return redis.call('HGET', ROOT .. 'meta', 'schema')
