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
  redis.call('PUBLISH', key('news'), id)
  return n
end

-- Feed and deliveries are kept this long; the attempts of one delivery take four days.
local KEEP_MS = 7 * 86400000

-- A target is where deliveries go: a registered endpoint, or the host that an owner's jobs name themselves. Each has a queue
-- of its own, and stands in `due` with the time of its first delivery, or of the end of its pause.
local function schedule(target)
  local first = redis.call('ZRANGE', key('due:' .. target), 0, 0, 'WITHSCORES')
  if not first[1] then return redis.call('ZREM', key('due'), target) end
  local paused = redis.call('HGET', key('target:' .. target), 'paused_until_ms') or 0
  redis.call('ZADD', key('due'), math.max(first[2], paused), target)
end

-- Nothing goes to this target any more.
local function drop(target)
  for _, delivery in ipairs(redis.call('ZRANGE', key('due:' .. target), 0, -1)) do
    redis.call('HSET', key('delivery:' .. delivery), 'state', 'given_up')
  end
  redis.call('DEL', key('due:' .. target), key('target:' .. target))
  redis.call('ZREM', key('due'), target)
end

-- Make a delivery due; one that is due or was taken already is left as it is. n: its event's number. -> 1 | 0
local function deliver(delivery, target, job, n, ...)
  local hash, now = key('delivery:' .. delivery), now_ms()
  local state = redis.call('HGET', hash, 'state')
  if state == 'pending' or state == 'delivered' then return 0 end
  redis.call('HSET', hash, 'state', 'pending', 'attempt', 0, 'target', target, 'job', job, ...)
  redis.call('ZADD', key('deliveries:' .. job), n, delivery)
  redis.call('PEXPIRE', hash, KEEP_MS)
  redis.call('PEXPIRE', key('deliveries:' .. job), KEEP_MS)
  redis.call('ZADD', key('due:' .. target), now, delivery)
  schedule(target)
  return 1
end

local function wants(endpoint, kind)
  local seen = redis.call('HMGET', key('endpoint:' .. endpoint), 'disabled_reason', 'events')
  return not seen[1] and seen[2] and string.find(seen[2], kind .. ' ', 1, true)
end

local function offer(endpoint, kind, event, job, n, at_ms)
  if not wants(endpoint, kind) then return 0 end
  return deliver(event .. ':' .. endpoint, endpoint, job, n, 'at_ms', at_ms, 'type', kind, 'event', event, 'endpoint', endpoint)
end

-- The end of a job that was made as one of OpenAI's responses has a second name, in its words; '' where there is none.
local ENDS = {['job.succeeded'] = 'response.completed', ['job.failed'] = 'response.failed', ['job.cancelled'] = 'response.cancelled'}
local function response_end(id, kind)
  local seen = redis.call('HMGET', record(id), 'response', 'output')
  if not seen[1] then return '' end
  if kind == 'job.succeeded' and cjson.decode(seen[2]).finish_reason == 'length' then return 'response.incomplete' end
  return ENDS[kind] or ''
end
local function response_event(event) return event .. '_response' end

-- The feed is what an owner's streams read, and endpoints that recover.
local function tell(owner, ...)
  local feed = key('feed:' .. owner)
  redis.call('XADD', feed, 'MAXLEN', '~', 10000, '*', ...)
  redis.call('PEXPIRE', feed, KEEP_MS)
  redis.call('PUBLISH', key('news'), 'feed:' .. owner)
end

-- An event about a job's state stands in its owner's feed, too, and is due to everybody who asked for it.
local function announce(id, kind, event, ...)
  local n, now, response = emit(id, kind, ...), now_ms(), response_end(id, kind)
  local seen = redis.call('HMGET', record(id), 'owner', 'webhook_events', 'webhook_target', 'webhook_url', 'webhook_payload')
  tell(seen[1], 'type', kind, 'at_ms', now, 'job', id, 'n', n, 'event', event, 'response', response)
  if event == '' then return end
  if seen[2] and string.find(seen[2], kind .. ' ', 1, true) then
    deliver(event, seen[3], id, n, 'at_ms', now, 'type', kind, 'event', event, 'url', seen[4], 'payload', seen[5])
  end
  for _, endpoint in ipairs(redis.call('ZRANGE', key('endpoints:' .. seen[1]), 0, -1)) do
    offer(endpoint, kind, event, id, n, now)
    if response ~= '' then offer(endpoint, response, response_event(event), id, n, now) end
  end
end

-- From the end on a job is kept for as long as its client said.
local function retain(id)
  local seen = redis.call('HMGET', record(id), 'result_ttl_s', 'owner')
  redis.call('ZADD', key('retained'), now_ms() + seen[1] * 1000, id .. ' ' .. seen[2])
  redis.call('PEXPIRE', record(id), seen[1] * 1000)
  redis.call('PEXPIRE', key('events:' .. id), seen[1] * 1000)
end

-- The only way into a final state: record, indexes, retention, the due deliveries and the news of it in one step.
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
  local said = redis.call('HGET', job, 'said') or 0
  redis.call('HINCRBY', job, 'events', 1) -- the number of the text that is not in the log: the reader takes it from the output
  announce(id, 'job.' .. status, 'evt_' .. string.sub(id, 5), 'said', said)
  retain(id)
  redis.call('PUBLISH', key('finals'), id)
end

-- At once while queued, else by telling its worker. -> status before, or false
local function cancel(id, err)
  local status = redis.call('HGET', record(id), 'status')
  if status == 'queued' then
    finish(id, 'cancelled', 'error', err)
  elseif status == 'running' then
    redis.call('HSET', record(id), 'cancel', err)
    redis.call('PUBLISH', key('cancels'), id)
  end
  return status
end

-- at: when rescue looks at it first. rings: how often it has rung for it; -1 where no doorbell can be under way.
local function queue(id, at, rings)
  redis.call('HSET', record(id), 'status', 'queued', 'rings', rings)
  if redis.call('HDEL', record(id), 'said') == 1 then emit(id, 'job.reset') end
  redis.call('HDEL', record(id), 'stage')
  redis.call('ZREM', key('running'), id)
  redis.call('ZADD', lane(class_of(id)), at, id)
  book(id, 'running', 'queued')
  announce(id, 'job.queued', '')
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

-- A batch is run by whoever shows the token of its lease; one that has ended, or is another's by now, counts for nothing.
local function batch_key(id) return key('batch:' .. id) end
local function runs(id, token)
  local ends = redis.call('ZSCORE', key('batches_open'), id)
  return ends and tonumber(ends) > now_ms() and redis.call('HGET', batch_key(id), 'token') == token
end

-- How many more jobs may wait. reserve: the share of both limits that the caller leaves free, but never the last place.
-- -> by the limit of the owner's key, by that of the service, the key's limit, how many wait in all
local function room(owner, max_queued, reserve)
  local function most(limit) return reserve > 0 and math.max(1, math.floor(limit * (1 - reserve))) or limit end
  local limit, queued = limit_of(owner, 'max_queued'), 0
  for _, class in ipairs({'interactive', 'default', 'bulk'}) do queued = queued + redis.call('ZCARD', lane(class)) end
  return most(limit) - redis.call('SCARD', key('queued_of:' .. owner)), most(max_queued) - queued, limit, queued
end
