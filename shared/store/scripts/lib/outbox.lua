-- A target is where deliveries go: a registered endpoint, or the host that an owner's jobs name themselves. Each has a queue
-- of its own, and stands in `due` with the time of its first delivery, or of the end of its pause.
local function schedule(target)
  local first = redis.call('ZRANGE', key('due:' .. target), 0, 0, 'WITHSCORES')
  if not first[1] then return redis.call('ZREM', key('due'), target) end
  local paused = redis.call('HGET', key('target:' .. target), 'paused_until_ms') or 0
  redis.call('ZADD', key('due'), math.max(first[2], paused), target)
end

-- How many deliveries are due to an owner's targets. It changes with the membership in `due:<target>`, and only with that.
local function owner_of(target) return string.match(target, '^(.+) ') or redis.call('HGET', key('endpoint:' .. target), 'owner') end
local function count_due(owner, change)
  if owner and redis.call('HINCRBY', key('due_of'), owner, change) <= 0 then redis.call('HDEL', key('due_of'), owner) end
end
local function put_due(target, delivery, at)
  if redis.call('ZADD', key('due:' .. target), at, delivery) == 1 then count_due(owner_of(target), 1) end
end
local function take_off(target, delivery)
  if redis.call('ZREM', key('due:' .. target), delivery) == 1 then count_due(owner_of(target), -1) end
end

-- Nothing goes to this target any more, as of now. There may be a million deliveries: `drop_some` gives them up in pieces.
local function drop(target, owner)
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

-- A delivery log can be read as long as its job, and what was handed over is of no use beyond that. Of a job that has not ended
-- it is kept for a week: its end makes that shorter.
local function job_ttl_ms(job)
  local ttl_ms = redis.call('PTTL', string.sub(job, 1, 6) == 'batch_' and key('batch:' .. job) or record(job))
  return ttl_ms == -1 and KEEP_MS or math.max(ttl_ms, 0) + 1000
end
local function keep(delivery, ttl_ms)
  redis.call('PEXPIRE', key('delivery:' .. delivery), ttl_ms)
  redis.call('PEXPIRE', key('attempts:' .. delivery), ttl_ms)
end

-- Senders listen. Once for a script is enough, however many deliveries it makes due.
local is_told = false
local function tell_senders()
  if not is_told then redis.call('PUBLISH', key('deliveries'), '') end
  is_told = true
end
