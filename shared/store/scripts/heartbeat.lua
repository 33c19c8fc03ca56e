-- name, notice, ttl_ms: also while Redis is full, or its workers would seem to be gone
redis.call('SET', key('worker:' .. ARGV[1]), ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', key('notices'), now_ms() + ARGV[3], ARGV[1])
