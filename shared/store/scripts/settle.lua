-- needs: outbox
-- delivery, attempt, verdict, next_ms, pause_ms, log JSON, reason -> 1 | 0: write down how an attempt went. verdict: 'delivered',
-- 'retry' after next_ms, 'given_up', or 'disabled', for which the endpoint keeps the reason. pause_ms: nothing goes to this
-- target for so long. A call whose reply was lost is repeated: nothing is written down twice.
local delivery, verdict, now = ARGV[1], ARGV[3], now_ms()
local hash = key('delivery:' .. delivery)
local seen = redis.call('HMGET', hash, 'target', 'endpoint', 'attempt', 'state', 'settled', 'job')
if not seen[1] then return 0 end
local settled = ARGV[2] .. ' ' .. verdict
if seen[5] == settled then return 1 end
local target, log = seen[1], key('attempts:' .. delivery)
local due, circuit = key('due:' .. target), key('target:' .. target)
redis.call('RPUSH', log, ARGV[6])
redis.call('LTRIM', log, -50, -1)
redis.call('HSET', hash, 'settled', settled)
keep(delivery, verdict == 'delivered' and job_ttl_ms(seen[6]) or KEEP_MS)
if verdict == 'delivered' then
  redis.call('HSET', hash, 'state', 'delivered')
  take_off(target, delivery)
  redis.call('DEL', circuit)
else
  redis.call('HINCRBY', circuit, 'failures', 1)
  redis.call('HSETNX', circuit, 'failing_since_ms', now)
  if tonumber(ARGV[5]) > 0 then redis.call('HSET', circuit, 'paused_until_ms', now + ARGV[5]) end
  redis.call('PEXPIRE', circuit, KEEP_MS)
  if verdict == 'retry' then
    -- Not where another sender has taken it meanwhile, or has handed it over.
    if seen[3] == ARGV[2] then redis.call('ZADD', due, 'XX', now + ARGV[4], delivery) end
  elseif seen[4] ~= 'delivered' then
    redis.call('HSET', hash, 'state', 'given_up')
    take_off(target, delivery)
  end
  if verdict == 'disabled' and redis.call('EXISTS', key('endpoint:' .. seen[2])) == 1 then
    redis.call('HSET', key('endpoint:' .. seen[2]), 'disabled_reason', ARGV[7], 'disabled_ms', now)
    drop(target, owner_of(target))
  end
end
schedule(target)
return 1
