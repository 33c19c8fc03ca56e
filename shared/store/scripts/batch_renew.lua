-- batch, token, lease_ms -> nil where the lease is lost | {status, ms until the window ends}
local id, token = ARGV[1], ARGV[2]
if not runs(id, token) then return false end
redis.call('ZADD', key('batches_open'), now_ms() + ARGV[3], id)
local seen = redis.call('HMGET', batch_key(id), 'status', 'expires_at')
return {seen[1], seen[2] * 1000 - now_ms()}
