-- id, owner, what ('update' | 'enable' | 'delete'), then fields to set -> 1 | 0 where the owner has no such endpoint
local id, owner, what = ARGV[1], ARGV[2], ARGV[3]
local endpoint = key('endpoint:' .. id)
if redis.call('HGET', endpoint, 'owner') ~= owner then return 0 end
if what == 'delete' then
  redis.call('DEL', endpoint)
  redis.call('ZREM', key('endpoints:' .. owner), id)
  drop(id)
  return 1
end
redis.call('HSET', endpoint, 'updated_ms', now_ms(), unpack(ARGV, 4))
if what == 'enable' then
  redis.call('HDEL', endpoint, 'disabled_reason', 'disabled_ms')
  redis.call('DEL', key('target:' .. id))
  schedule(id)
end
return 1
