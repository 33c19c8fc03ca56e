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

-- The queued jobs of a class; those of the default class have the plain name.
local function lane(class) return key(class == 'default' and 'queued' or 'queued:' .. class) end
local function class_of(id) return redis.call('HGET', record(id), 'class') or 'default' end

-- What an owner has waiting and running, for the limits of its key.
local function book(id, from, to)
  local owner = redis.call('HGET', record(id), 'owner')
  if not owner then return end
  if from then redis.call('SREM', key(from .. '_of:' .. owner), id) end
  if to then redis.call('SADD', key(to .. '_of:' .. owner), id) end
end
local function limit_of(owner, name)
  local limit = tonumber(redis.call('HGET', key('key:' .. owner), name) or 0)
  return limit > 0 and limit or math.huge
end

local function may_move(from, to) return from and MOVES[from] ~= nil and MOVES[from][to] == true end

-- The numbers of a job's events count up from 1, so that a reader sees what the cap took from it.
local function emit(id, kind, ...)
  local n = redis.call('HINCRBY', record(id), 'events', 1)
  redis.call('XADD', key('events:' .. id), 'MAXLEN', '~', 10000, n .. '-0', 'type', kind, 'at_ms', now_ms(), ...)
  return n
end

-- An event about a job's state stands in its owner's feed, too.
local function announce(id, kind, ...)
  local n = emit(id, kind, ...)
  local feed = key('feed:' .. redis.call('HGET', record(id), 'owner'))
  redis.call('XADD', feed, 'MAXLEN', '~', 10000, '*', 'type', kind, 'at_ms', now_ms(), 'job', id, 'n', n)
  redis.call('PEXPIRE', feed, 7 * 86400000)
end

-- The only way into a final state: record, indexes, retention, the due delivery and the news of it in one step.
local function finish(id, status, ...)
  local now, job = now_ms(), record(id)
  redis.call('HSET', job, 'status', status, 'finished_ms', now, ...)
  redis.call('HDEL', job, 'stage', 'cancel')
  redis.call('ZREM', lane(class_of(id)), id)
  redis.call('ZREM', key('running'), id)
  book(id, 'queued')
  book(id, 'running')
  redis.call('INCR', key('count:' .. status))
  local minute = key('ended:' .. math.floor(now / 60000))
  redis.call('INCR', minute)
  redis.call('EXPIRE', minute, 180)
  local ttl = redis.call('HGET', job, 'result_ttl_s')
  local said = redis.call('HGET', job, 'said') or 0
  redis.call('HINCRBY', job, 'events', 1) -- the number of the text that is not in the log: the reader takes it from the output
  announce(id, 'job.' .. status, 'said', said)
  redis.call('PEXPIRE', job, ttl * 1000)
  redis.call('PEXPIRE', key('events:' .. id), ttl * 1000)
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
  if redis.call('HDEL', record(id), 'said') == 1 then emit(id, 'job.reset') end
  redis.call('HDEL', record(id), 'stage')
  redis.call('ZREM', key('running'), id)
  redis.call('ZADD', lane(class_of(id)), at, id)
  book(id, 'running', 'queued')
  announce(id, 'job.queued')
end
