-- A target is where deliveries go: a registered endpoint, or the host that an owner's jobs name themselves. Each has a queue
-- of its own, and stands in `due` with the time of its first delivery, or of the end of its pause.
local function schedule(target)
  local first = redis.call('ZRANGE', key('due:' .. target), 0, 0, 'WITHSCORES')
  if not first[1] then return redis.call('ZREM', key('due'), target) end
  local paused = redis.call('HGET', key('target:' .. target), 'paused_until_ms') or 0
  redis.call('ZADD', key('due'), math.max(first[2], paused), target)
end

-- How many deliveries are due to an owner's targets; 0 stays, since removing it costs as much as all of it. It changes with the membership in `due:<target>`, and only with that.
local function owner_of(target) return string.match(target, '^(.+) ') or redis.call('HGET', key('endpoint:' .. target), 'owner') end
local function count_due(owner, change)
  if not owner then return 0 end
  local n = redis.call('HINCRBY', key('due_of'), owner, change)
  if n < 0 then redis.call('HDEL', key('due_of'), owner) end
  return n
end
local function take_off(target, deliveries)
  local n = redis.call('ZREM', key('due:' .. target), unpack(deliveries))
  if n > 0 then count_due(owner_of(target), -n) end
end

-- Senders listen. Once for a script is enough, however many deliveries it makes due.
local function tell_senders()
  if not is_told then redis.call('PUBLISH', key('deliveries'), '') end
  is_told = true
end

-- A target may be paused: whoever takes from it finds that out. `looked`: this script has put it down for now already.
local function put_due(target, delivery, now)
  local is_new = redis.call('ZADD', key('due:' .. target), now, delivery) == 1
  if not looked[target] then redis.call('ZADD', key('due'), 'LT', now, target) end
  looked[target] = true
  tell_senders()
  return is_new
end

-- Nothing goes to this target any more, as of now. There may be a million deliveries: `discard_deliveries` gives them up in pieces.
local function discard_target(target, owner)
  local due = key('due:' .. target)
  local n_due = redis.call('ZCARD', due)
  if n_due > 0 then
    local left = target .. ' ' .. now_ms()
    redis.call('RENAME', due, key('dropped:' .. left))
    redis.call('RPUSH', key('dropping'), left)
    count_due(owner, -n_due)
  end
  redis.call('DEL', key('target:' .. target))
  redis.call('ZREM', key('due'), target)
end

-- What was handed over is of no use beyond its job, what was not is kept for a week. keep_ms: when the job's retention ends, if the
-- job has ended; else its end makes that shorter.
local function keep(delivery, keep_ms)
  redis.call('PEXPIREAT', key('delivery:' .. delivery), tonumber(keep_ms) or now_ms() + KEEP_MS)
end
-- Its job has ended, or its retention is another by now.
local function keep_as_job(delivery, keep_ms)
  local state = redis.call('HGET', key('delivery:' .. delivery), 'state')
  if state then redis.call('HSET', key('delivery:' .. delivery), 'keep_ms', keep_ms) end
  if state == 'delivered' or state == 'discarded' then keep(delivery, keep_ms) end
end
