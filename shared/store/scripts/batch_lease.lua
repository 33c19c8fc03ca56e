-- batch, token, lease_ms -> 1 | 0: become the one who runs an open batch, if nobody does
local id, token = ARGV[1], ARGV[2]
if runs(id, token) then return 1 end -- a call repeated, whose reply was lost
local ends = redis.call('ZSCORE', key('batches_open'), id)
if not ends or tonumber(ends) > now_ms() then return 0 end
if redis.call('EXISTS', batch_key(id)) == 0 then -- nothing is left that could be run
  redis.call('ZREM', key('batches_open'), id)
  return 0
end
redis.call('HSET', batch_key(id), 'token', token)
redis.call('ZADD', key('batches_open'), now_ms() + ARGV[3], id)
return 1
