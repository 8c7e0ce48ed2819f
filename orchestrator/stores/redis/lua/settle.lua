-- ARGV: retry, job id, what it has cost.
settle(ARGV[2], vector(ARGV[3]))
return {'ok'}
