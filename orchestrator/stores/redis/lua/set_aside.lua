-- ARGV: retry, job id, then what set_aside reads.
local refusal, amount = set_aside(ARGV[2], 3)
return refusal or {'ok', amount}
