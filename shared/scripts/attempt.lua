-- event, lease_ms -> {job, type, at_ms, attempt} | nil: take a due delivery; another sender may after lease_ms
local event, now = ARGV[1], now_ms()
local due = redis.call('ZSCORE', key('due'), event)
if not due or tonumber(due) > now then return nil end
redis.call('ZADD', key('due'), now + tonumber(ARGV[2]), event)
local delivery = key('delivery:' .. event)
local attempt = redis.call('HINCRBY', delivery, 'attempt', 1)
local rest = redis.call('HMGET', delivery, 'job', 'type', 'at_ms')
return {rest[1], rest[2], tonumber(rest[3]), attempt}
