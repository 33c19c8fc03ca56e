-- needs: outbox
-- delivery -> 1 | 0 where it is unknown, or its endpoint gone or disabled: make it due now, with a schedule that starts anew
local hash = key('delivery:' .. ARGV[1])
local seen = redis.call('HMGET', hash, 'target', 'endpoint')
if not seen[1] then return 0 end
if seen[2] then
  local endpoint = redis.call('HMGET', key('endpoint:' .. seen[2]), 'url', 'disabled_reason')
  if not endpoint[1] or endpoint[2] then return 0 end
end
redis.call('HSET', hash, 'state', 'pending', 'attempt', 0)
redis.call('HDEL', hash, 'settled', 'reason')
keep(ARGV[1], KEEP_MS)
redis.call('HDEL', key('target:' .. seen[1]), 'paused_until_ms')
put_due(seen[1], ARGV[1], now_ms())
schedule(seen[1])
tell_senders()
return 1
