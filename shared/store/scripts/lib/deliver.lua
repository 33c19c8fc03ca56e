-- needs: outbox
-- The deliveries of a job that do not follow from its id stand in its record: all but that of its end to its own address.
local function note(job, delivery)
  local seen = redis.call('HMGET', record(job), 'owner', 'deliveries')
  local noted = seen[2] or ''
  if seen[1] and not string.find(noted, delivery .. ' ', 1, true) then
    redis.call('HSET', record(job), 'deliveries', noted .. delivery .. ' ')
  end
end

-- Make a delivery due, unless it is. Where as many are due to its owner as may be, it is discarded, which its log tells. Its id is
-- its event's, for an endpoint with ':' and its id. job: a job's id, or a batch's. keep_ms: see `keep`. -> 1 | 0
local function deliver(delivery, target, owner, job, keep_ms, at_ms, kind, ...)
  local hash, own = key('delivery:' .. delivery), string.gsub(job, '^job_', 'evt_')
  redis.call('HSET', hash, 'state', 'pending', 'attempt', 0, 'target', target, 'keep_ms', keep_ms or '', 'at_ms', at_ms, 'type', kind, ...)
  -- Senders know a job by its event's id, and nobody else's.
  if string.sub(delivery, 1, #own) ~= own then redis.call('HSET', hash, 'job', job) elseif delivery ~= own then note(job, delivery) end
  if count_due(owner, 1) > MAX_DUE then
    count_due(owner, -1)
    redis.call('HSET', hash, 'state', 'discarded', 'reason', 'backlog_full')
    keep(delivery, keep_ms)
    return 0
  end
  if not put_due(target, delivery, now_ms()) then count_due(owner, -1) end
  return 1
end

-- -> 1 | 0 where the endpoint is off, or has not asked for events of this kind
local function deliver_wanted(endpoint, kind, event, job, keep_ms, at_ms)
  local seen = redis.call('HMGET', key('endpoint:' .. endpoint), 'disabled_reason', 'events', 'owner')
  if seen[1] or not seen[2] or not string.find(seen[2], kind .. ' ', 1, true) then return 0 end
  return deliver(event .. ':' .. endpoint, endpoint, seen[3], job, keep_ms, at_ms, kind)
end
-- A damaged endpoint is offered nothing, and stops no job's end.
local function deliver_if_wanted(...)
  local ok, n = try(deliver_wanted, ...)
  return ok and n or 0
end
