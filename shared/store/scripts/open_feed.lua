-- owner -> 1 | 0 where it was not written lately: this owner's feed is read, and written for a month from now on
local owner = key('owner:' .. ARGV[1])
local seen, now = redis.call('HMGET', owner, 'endpoints', 'feed_until_ms'), now_ms()
local is_written = tonumber(seen[1] or 0) > 0 or tonumber(seen[2] or 0) > now
if not is_written then redis.call('DEL', key('feed:' .. ARGV[1])) end
redis.call('HSET', owner, 'feed_until_ms', now + 30 * 86400000)
return is_written and 1 or 0
