-- id, owner, most, then the fields -> 1 | 0 where the owner has as many as one may have
local id, owner = ARGV[1], ARGV[2]
if redis.call('EXISTS', key('endpoint:' .. id)) == 1 then return 1 end
if redis.call('ZCARD', key('endpoints:' .. owner)) >= tonumber(ARGV[3]) then return 0 end
local now = now_ms()
redis.call('HSET', key('endpoint:' .. id), 'owner', owner, 'created_ms', now, 'updated_ms', now, unpack(ARGV, 4))
redis.call('ZADD', key('endpoints:' .. owner), now, id)
return 1
