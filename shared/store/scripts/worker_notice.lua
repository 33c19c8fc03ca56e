-- name, notice, ttl_ms -> 1 where it was told to drain, else 0: publish a worker's notice, also while Redis is full: else it would seem to be gone. It renews no lease: see renew_leases.lua
redis.call('SET', key('worker:' .. ARGV[1]), ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', key('notices'), now_ms() + ARGV[3], ARGV[1])
return redis.call('EXISTS', key('drain:' .. ARGV[1]))
