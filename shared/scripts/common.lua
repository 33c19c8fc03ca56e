-- In front of every script. KEYS[1] is the prefix of all keys; MOVES is filled in from shared/jobs.py.
-- One Redis, not a cluster: keys are made here, and kombu has no cluster transport either.
local PREFIX = KEYS[1]
local function key(name) return PREFIX .. name end
local function record(id) return PREFIX .. 'job:' .. id end

-- Only Redis's clock counts: a worker whose clock jumped must not lose or steal a lease.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function may_move(from, to) return from and MOVES[from] ~= nil and MOVES[from][to] == true end

-- The only way into a final state: record, indexes, retention, the due delivery and the news of it in one step.
local function finish(id, status, ...)
  local now, job = now_ms(), record(id)
  redis.call('HSET', job, 'status', status, 'finished_ms', now, ...)
  redis.call('HDEL', job, 'stage', 'cancel')
  redis.call('ZREM', key('queued'), id)
  redis.call('ZREM', key('running'), id)
  redis.call('INCR', key('count:' .. status))
  local minute = key('ended:' .. math.floor(now / 60000))
  redis.call('INCR', minute)
  redis.call('EXPIRE', minute, 180)
  local ttl = redis.call('HGET', job, 'result_ttl_s')
  redis.call('PEXPIRE', job, ttl * 1000)
  redis.call('ZADD', key('retained'), now + ttl * 1000, id .. ' ' .. redis.call('HGET', job, 'owner'))
  local events = redis.call('HGET', job, 'webhook_events')
  if events and string.find(events, 'job.' .. status .. ' ', 1, true) then
    local event = 'evt_' .. string.sub(id, 5)
    redis.call('HSET', key('delivery:' .. event), 'job', id, 'type', 'job.' .. status, 'at_ms', now, 'attempt', 0)
    redis.call('ZADD', key('due'), now, event)
  end
  redis.call('PUBLISH', key('finals'), id)
end

-- at: when rescue looks at it first. rings: how often it has rung for it; -1 where no doorbell can be under way.
local function queue(id, at, rings)
  redis.call('HSET', record(id), 'status', 'queued', 'rings', rings)
  redis.call('HDEL', record(id), 'stage')
  redis.call('ZREM', key('running'), id)
  redis.call('ZADD', key('queued'), at, id)
end

-- What is known of a job after its retention: three bits in the filter of the day it was purged on, so that any number of
-- them needs the same megabyte. One in fifty ids that never were looks like one that was, at a million jobs a day.
local function traces(id, owner)
  local hash, bits = redis.sha1hex(owner .. ' ' .. id), {}
  for i = 1, 3 do bits[i] = tonumber(string.sub(hash, 6 * i - 5, 6 * i), 16) % 8388608 end
  return bits
end
local GONE_DAYS = 7
local function filter(days_ago) return key('gone:' .. math.floor(now_ms() / 86400000) - days_ago) end
