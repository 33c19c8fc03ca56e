-- batch, lease_ms -> 1 | 0: become the one who runs an open batch, if nobody does
local ends = redis.call('ZSCORE', key('batches_open'), ARGV[1])
if not ends or tonumber(ends) > now_ms() then return 0 end
redis.call('ZADD', key('batches_open'), now_ms() + ARGV[2], ARGV[1])
return 1
