-- delivery -> 1 | 0 where it is unknown, or its endpoint gone or disabled: make it due now, with a schedule that starts anew
local delivery, hash = ARGV[1], key('delivery:' .. ARGV[1])
local target = redis.call('HGET', hash, 'target')
if not target then return 0 end
if string.find(delivery, ':', 1, true) then
  local endpoint = redis.call('HMGET', key('endpoint:' .. target), 'url', 'disabled_reason')
  if not endpoint[1] or endpoint[2] then return 0 end
end
redis.call('HSET', hash, 'state', 'pending', 'attempt', 0, 'token', '') -- who has it under way tells nothing of it any more
redis.call('HDEL', hash, 'reason')
redis.call('PERSIST', hash)
redis.call('HDEL', key('target:' .. target), 'paused_until_ms')
if put_due(target, delivery, now_ms()) then count_due(owner_of(target), 1) end
return 1
