-- id, owner, what ('update' | 'enable' | 'rotate' | 'delete'), most for one host, the new host or '', ms for which the old secret
-- still signs, then fields to set -> 1 | 0 where the owner has no such endpoint | -1 where as many as may be are for that host
local id, owner, what, host = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local endpoint, old_secret = key('endpoint:' .. id), key('old_secret:' .. id)
local seen = redis.call('HMGET', endpoint, 'owner', 'secret')
if seen[1] ~= owner then return 0 end
if what == 'delete' then
  redis.call('DEL', endpoint, old_secret)
  redis.call('HINCRBY', key('owner:' .. owner), 'endpoints', -redis.call('ZREM', key('endpoints:' .. owner), id))
  discard_target(id, owner)
  return 1
end
if host ~= '' then
  if n_endpoints_at(owner, host, id) >= tonumber(ARGV[4]) then return -1 end
  redis.call('HSET', endpoint, 'host', host)
end
if what == 'rotate' and seen[2] ~= ARGV[8] then -- else it is a call whose reply was lost
  redis.call('DEL', old_secret)
  if tonumber(ARGV[6]) > 0 then redis.call('SET', old_secret, seen[2], 'PX', ARGV[6]) end
end
redis.call('HSET', endpoint, 'updated_ms', now_ms(), unpack(ARGV, 7))
if what == 'enable' then
  redis.call('HDEL', endpoint, 'disabled_reason', 'disabled_ms')
  redis.call('DEL', key('target:' .. id))
  schedule(id)
  tell_senders()
end
return 1
