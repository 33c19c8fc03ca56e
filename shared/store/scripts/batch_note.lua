-- batch, token, fields -> nil where the lease is lost | 1
if not runs(ARGV[1], ARGV[2]) then return false end
redis.call('HSET', batch_key(ARGV[1]), unpack(ARGV, 3))
return 1
