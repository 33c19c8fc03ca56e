-- part, lapse_ms, memory_ms: also while Redis is full. Those who left without a word long ago are forgotten, and so is what a
-- clock that has been set back would have for the future
local now, parts = now_ms(), key('parts')
redis.call('ZADD', parts, now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', parts, '-inf', now - ARGV[3])
redis.call('ZREMRANGEBYSCORE', parts, now + ARGV[2], '+inf')
