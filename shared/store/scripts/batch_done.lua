-- batch, token, line, its job, 'output' | 'error', result, 'completed' | 'failed' | ''
-- -> nil where the lease is lost | how many results are in no part yet, 0 where this one was kept before
local id, line, kind, count, batch = ARGV[1], ARGV[3], ARGV[5], ARGV[7], batch_key(ARGV[1])
if not runs(id, ARGV[2]) then return false end
if redis.call('HDEL', batch .. ':flight', line) == 0 then return 0 end
redis.call('SREM', key('promised:' .. redis.call('HGET', batch, 'owner')), ARGV[4])
if count ~= '' then redis.call('HINCRBY', batch, count, 1) end
return redis.call('RPUSH', batch .. ':' .. kind, ARGV[6])
