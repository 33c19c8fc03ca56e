-- target, limit, lease_ms, open_after -> {failures, failing_since_ms, deliveries as {id, attempt, event, job, type, at_ms,
-- endpoint, url, payload}}: take due deliveries; another sender may after lease_ms. A target that failed open_after times in a
-- row gets one at a time.
local target, limit, lease_ms, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), now_ms()
local seen = redis.call('HMGET', key('target:' .. target), 'failures', 'failing_since_ms', 'paused_until_ms')
local failures, taken = tonumber(seen[1] or 0), {}
if tonumber(seen[3] or 0) > now then limit = 0 end
if failures >= tonumber(ARGV[4]) and limit > 0 then
  limit = 1
  redis.call('HSET', key('target:' .. target), 'paused_until_ms', now + lease_ms)
end
for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', key('due:' .. target), '-inf', now, 'LIMIT', 0, limit)) do
  local hash = key('delivery:' .. delivery)
  local facts = redis.call('HMGET', hash, 'event', 'job', 'type', 'at_ms', 'endpoint', 'url', 'payload')
  if facts[1] then
    redis.call('ZADD', key('due:' .. target), now + lease_ms, delivery)
    taken[#taken + 1] = {delivery, redis.call('HINCRBY', hash, 'attempt', 1)}
    for i = 1, 7 do taken[#taken][i + 2] = facts[i] or '' end
  else
    redis.call('ZREM', key('due:' .. target), delivery)
  end
end
schedule(target)
return {failures, tonumber(seen[2] or 0), taken}
