-- ARGV: retry, account, tokens per second, most tokens. Returns seconds until there is a token.
local key, rate, burst = ROOT .. 'bucket:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local was = redis.call('HMGET', key, 'tokens', 'at_us')
local tokens = burst
if was[1] then
  tokens = math.min(burst, tonumber(was[1]) + rate * math.max(0, NOW_US - tonumber(was[2])) / 1e6)
end
local ONE = 1 - 1e-9 -- waiting as long as was said must be enough, whatever is rounded
local wait_s = 0
if tokens >= ONE then
  tokens = math.max(0, tokens - 1)
else
  wait_s = (1 - tokens) / rate
end
redis.call('HSET', key, 'tokens', string.format('%.17g', tokens), 'at_us', whole(NOW_US))
redis.call('PEXPIRE', key, whole(math.ceil(1000 * (burst / rate + 1))))
return string.format('%.17g', wait_s)
