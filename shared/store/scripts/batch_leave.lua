-- batch, token, pause_ms -> nil where the lease is lost | 1: whoever looks after the pause may run it
if not runs(ARGV[1], ARGV[2]) then return false end
redis.call('HDEL', batch_key(ARGV[1]), 'token')
redis.call('ZADD', key('batches_open'), now_ms() + ARGV[3], ARGV[1])
return 1
