-- needs: outbox
-- target, limit, lease_ms, open_after, token -> {failures, failing_since_ms, now_ms, deliveries as {id, attempt, event, job, type,
-- at_ms, endpoint, url, payload}, ids set aside}: take due deliveries; another sender may after lease_ms. A target that failed
-- open_after times in a row gets one at a time. A call whose reply was lost is repeated, and takes the same.
local target, limit, lease_ms, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), now_ms()
local mine, taken, odd = key('taken:' .. ARGV[5]), {}, {}

local function read(delivery)
  local facts = redis.call('HMGET', key('delivery:' .. delivery), 'attempt', 'event', 'job', 'type', 'at_ms')
  for n = 1, 5 do if not facts[n] then error('a field is missing') end end
  if not tonumber(facts[1]) or not tonumber(facts[5]) then error('no number') end
  local rest = redis.call('HMGET', key('delivery:' .. delivery), 'endpoint', 'url', 'payload')
  for n = 1, 3 do facts[n + 5] = rest[n] or '' end
  table.insert(facts, 1, delivery)
  taken[#taken + 1] = facts
end

local function take()
  local seen = redis.call('HMGET', key('target:' .. target), 'failures', 'failing_since_ms', 'paused_until_ms')
  local failures = tonumber(seen[1] or 0)
  local told = {failures, tonumber(seen[2] or 0), now, taken, odd}
  local before = redis.call('LRANGE', mine, 0, -1)
  for _, delivery in ipairs(before) do try(read, delivery) end
  if before[1] then return told end
  if tonumber(seen[3] or 0) > now then limit = 0 end
  if failures >= tonumber(ARGV[4]) and limit > 0 then
    limit = 1
    redis.call('HSET', key('target:' .. target), 'paused_until_ms', now + lease_ms)
  end
  for _, delivery in ipairs(redis.call('ZRANGEBYSCORE', key('due:' .. target), '-inf', now, 'LIMIT', 0, limit)) do
    local sound = try(redis.call, 'HINCRBY', key('delivery:' .. delivery), 'attempt', 1) and try(read, delivery)
    if sound then
      redis.call('ZADD', key('due:' .. target), now + lease_ms, delivery)
      redis.call('RPUSH', mine, delivery)
    else
      take_off(target, delivery)
      if redis.call('TYPE', key('delivery:' .. delivery)).ok == 'hash' then redis.call('DEL', key('delivery:' .. delivery)) end
      odd[#odd + 1] = delivery
    end
  end
  redis.call('PEXPIRE', mine, lease_ms)
  schedule(target)
  return told
end

local ok, told = try(take)
if ok then return told end
redis.call('ZREM', key('due'), target) -- its queue is none: it must not keep others from theirs
return {0, 0, now, {}, {target}}
