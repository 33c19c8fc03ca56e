-- needs: outbox
-- Make a delivery due; one that is due or was taken already is left as it is. Where as many are due to its owner as may be, it is
-- discarded, which its log tells. n: its event's number. -> 1 | 0
local function deliver(delivery, target, job, n, ...)
  local hash, now = key('delivery:' .. delivery), now_ms()
  local state = redis.call('HGET', hash, 'state')
  if state == 'delivered' or (state == 'pending' and redis.call('ZSCORE', key('due:' .. target), delivery)) then return 0 end
  redis.call('HSET', hash, 'state', 'pending', 'attempt', 0, 'target', target, 'job', job, ...)
  redis.call('HDEL', hash, 'settled', 'reason')
  redis.call('ZADD', key('deliveries:' .. job), n, delivery)
  local ttl_ms = job_ttl_ms(job)
  redis.call('PEXPIRE', key('deliveries:' .. job), ttl_ms)
  if tonumber(redis.call('HGET', key('due_of'), owner_of(target) or '') or 0) >= MAX_DUE then
    redis.call('HSET', hash, 'state', 'discarded', 'reason', 'backlog_full')
    keep(delivery, ttl_ms)
    return 0
  end
  keep(delivery, KEEP_MS)
  put_due(target, delivery, now)
  schedule(target)
  tell_senders()
  return 1
end

local function wants(endpoint, kind)
  local seen = redis.call('HMGET', key('endpoint:' .. endpoint), 'disabled_reason', 'events')
  return not seen[1] and seen[2] and string.find(seen[2], kind .. ' ', 1, true)
end

local function offer_to(endpoint, kind, event, job, n, at_ms)
  if not wants(endpoint, kind) then return 0 end
  return deliver(event .. ':' .. endpoint, endpoint, job, n, 'at_ms', at_ms, 'type', kind, 'event', event, 'endpoint', endpoint)
end
-- A damaged endpoint is offered nothing, and stops no job's end.
local function offer(...)
  local ok, n = try(offer_to, ...)
  return ok and n or 0
end
