-- In front of every script. KEYS[1] is the prefix of all keys; MOVES, CLASSES and MAX_DUE are filled in by shared/database.py.
-- One Redis, not a cluster: keys are made here, and kombu has no cluster transport either.
local PREFIX = KEYS[1]
local function key(name) return PREFIX .. name end
local function record(id) return PREFIX .. 'job:' .. id end

-- Only Redis's clock counts: a worker whose clock jumped must not lose or steal a lease.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A step for one of many records. -> true and what it gave, or false where the record is damaged, which must hurt nobody else.
-- What Redis refuses for reasons of its own, such as rights or a full disk, is no damage.
local function try(step, ...)
  local ok, given = pcall(step, ...)
  if ok then return true, given end
  local why = type(given) == 'table' and given.err or given
  local code = string.match(why, '^(%u+) ')
  local is_refused = string.find(why, 'ACL', 1, true) or string.find(why, 'nknown', 1, true) or string.find(why, 'not allowed', 1, true)
  if is_refused or (code and code ~= 'ERR' and code ~= 'WRONGTYPE') then error(given, 0) end
  return false
end

-- A clock set back by more than this is noticed; until then what waits, waits a little longer.
local STEP_MS = 5000

local function bring_near(waits, now, step)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', waits, '(' .. now, '+inf')) do redis.call('ZINCRBY', waits, step, member) end
end

-- Look whether the clock was set back, which would have all that waits wait for as long as the step: due times follow it.
-- -> now, ms
local function mind_clock()
  local clock, now = key('clock'), now_ms()
  local step = now - (redis.call('HGET', clock, 'seen_ms') or 0)
  if step >= 1000 then redis.call('HSET', clock, 'seen_ms', now) end
  if step >= -STEP_MS then return now end
  redis.call('HSET', clock, 'seen_ms', now)
  for _, name in ipairs({'queued:interactive', 'queued', 'queued:bulk', 'deadlines', 'holding', 'batches_open'}) do bring_near(key(name), now, step) end
  for _, target in ipairs(redis.call('ZRANGE', key('due'), 0, -1)) do
    bring_near(key('due:' .. target), now, step)
    local paused = tonumber(redis.call('HGET', key('target:' .. target), 'paused_until_ms') or 0)
    if paused > now then redis.call('HINCRBY', key('target:' .. target), 'paused_until_ms', step) end
  end
  bring_near(key('due'), now, step)
  -- Notices of dead workers would stay for as long; those of living ones are put up each second.
  local cursor, page = '0', nil
  repeat
    cursor, page = unpack(redis.call('SCAN', cursor, 'MATCH', key('worker:*'), 'COUNT', 1000))
    for _, notice in ipairs(page) do redis.call('PEXPIRE', notice, STEP_MS) end
  until cursor == '0'
  return now
end

-- Leases run only while somebody could renew them. Every beat and rescue leaves its time: one that comes half a lease after
-- the last, or before it, finds that Redis was away, took no writes or had its clock set, and all leases begin anew. -> now, ms
local function keep_time(lease_ms)
  local now = mind_clock()
  local last = tonumber(redis.call('HGET', key('clock'), 'beat_ms') or now)
  redis.call('HSET', key('clock'), 'beat_ms', now)
  if now - last > lease_ms / 2 or now - last < -STEP_MS then
    for _, id in ipairs(redis.call('ZRANGE', key('running'), 0, -1)) do redis.call('ZADD', key('running'), now + lease_ms, id) end
  end
  return now
end

-- The queued jobs of a class; those of the default class have the plain name.
local function lane(class) return key(class == 'default' and 'queued' or 'queued:' .. class) end
local function class_of(id)
  local found = redis.call('HGET', record(id), 'class')
  for _, class in ipairs(CLASSES) do if class == found then return class end end
  return 'default'
end

-- A job that a worker of another model was rung for waits here for one of its own, without a doorbell: their rescues look.
local function parked(class, model) return key('parked:' .. class .. ':' .. model) end
local function park(id, class, model, look_again_at)
  redis.call('ZADD', parked(class, model), 'NX', now_ms(), id)
  redis.call('ZADD', lane(class), look_again_at, id)
end
local function unpark(id)
  local model = redis.call('HGET', record(id), 'model')
  if model then redis.call('ZREM', parked(class_of(id), model), id) end
end

-- What an owner has waiting and running, for the limits of its key. A job that finds as many of its key running as may run
-- waits for its turn in `held:<owner>`, and its place in the lane is +inf: no doorbell is under way for it.
local function book(id, from, to)
  local owner = redis.call('HGET', record(id), 'owner')
  if not owner then return end
  if from == 'queued' then redis.call('ZREM', key('held:' .. owner), id) end
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

-- One of this owner's jobs that ran runs no more, and nobody who could start the next is known: `turns` looks at once.
local function free_turn(owner)
  if owner then redis.call('ZADD', key('holding'), 'XX', 0, owner) end
end

-- The feed, and deliveries that were not taken, are kept this long; the attempts of one delivery take four days.
local KEEP_MS = 7 * 86400000

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

-- How many of an owner's other endpoints are at this host.
local function n_endpoints_at(owner, host, but)
  local n = 0
  for _, id in ipairs(redis.call('ZRANGE', key('endpoints:' .. owner), 0, -1)) do
    local ok, seen = try(redis.call, 'HGET', key('endpoint:' .. id), 'host')
    if ok and seen == host and id ~= but then n = n + 1 end
  end
  return n
end

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
  if not seen[1] then return end
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

-- From the end on a job is kept for as long as its client said; a day, where its record does not tell.
local function retain(id)
  local seen = redis.call('HMGET', record(id), 'result_ttl_s', 'owner')
  local ttl_ms = (tonumber(seen[1]) or 86400) * 1000
  if seen[2] then redis.call('ZADD', key('retained'), now_ms() + ttl_ms, id .. ' ' .. seen[2]) end
  redis.call('PEXPIRE', record(id), ttl_ms)
  redis.call('PEXPIRE', key('events:' .. id), ttl_ms)
  redis.call('PEXPIRE', key('deliveries:' .. id), ttl_ms)
  for _, delivery in ipairs(redis.call('ZRANGE', key('deliveries:' .. id), 0, -1)) do
    local state = redis.call('HGET', key('delivery:' .. delivery), 'state')
    if state == 'delivered' or state == 'discarded' then keep(delivery, ttl_ms + 1000) end
  end
end

-- The only way into a final state: record, indexes, retention, the due deliveries and the news of it in one step.
local function finish(id, status, ...)
  local now, job = now_ms(), record(id)
  redis.call('HSET', job, 'status', status, 'finished_ms', now, ...)
  redis.call('HDEL', job, 'stage', 'cancel')
  redis.call('ZREM', lane(class_of(id)), id)
  unpark(id)
  redis.call('ZREM', key('running'), id)
  redis.call('ZREM', key('deadlines'), id)
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

-- A job whose record is damaged ends, as far as its record lets it, and leaves the indexes: nobody comes upon it again. The ids
-- are given back to be logged.
local aside = {}
local function set_aside(id, err)
  aside[#aside + 1] = id
  for _, class in ipairs(CLASSES) do redis.call('ZREM', lane(class), id) end
  for _, index in ipairs({'running', 'deadlines'}) do redis.call('ZREM', key(index), id) end
  if redis.call('TYPE', record(id)).ok ~= 'hash' or try(finish, id, 'failed', 'error', err) then return end
  redis.call('HSET', record(id), 'status', 'failed', 'finished_ms', now_ms(), 'error', err)
  redis.call('EXPIRE', record(id), 86400)
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
  for _, class in ipairs(CLASSES) do queued = queued + redis.call('ZCARD', lane(class)) end
  return most(limit) - redis.call('SCARD', key('queued_of:' .. owner)), most(max_queued) - queued, limit, queued
end

-- The open batch of this owner that reads an upload, or nil.
local function reader_of(upload, owner)
  for _, id in ipairs(redis.call('SMEMBERS', key('batches_open:' .. owner))) do
    if redis.call('HGET', batch_key(id), 'input_file_id') == upload then return id end
  end
end
