-- id, owner, most, most for one host, then the fields, the host first -> 1 | 0 where the owner has as many as one may have | -1
-- where that many of them are for this host
local id, owner = ARGV[1], ARGV[2]
if redis.call('EXISTS', key('endpoint:' .. id)) == 1 then return 1 end
if redis.call('ZCARD', key('endpoints:' .. owner)) >= tonumber(ARGV[3]) then return 0 end
if n_endpoints_at(owner, ARGV[6], '') >= tonumber(ARGV[4]) then return -1 end
local now = now_ms()
redis.call('HSET', key('endpoint:' .. id), 'owner', owner, 'created_ms', now, 'updated_ms', now, unpack(ARGV, 5))
redis.call('ZADD', key('endpoints:' .. owner), now, id)
redis.call('HINCRBY', key('owner:' .. owner), 'endpoints', 1)
return 1
