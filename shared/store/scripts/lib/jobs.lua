-- needs: queues, events, deliver
local function may_move(from, to) return from and MOVES[from] ~= nil and MOVES[from][to] == true end

-- An event about a job's state stands in its owner's feed, too, and is due to everybody who asked for it. keep_ms: of its end.
local function announce(id, n, kind, event, keep_ms)
  local now, response = now_ms(), response_end(id, kind)
  local seen = redis.call('HMGET', record(id), 'owner', 'webhook_events', 'webhook_target', 'webhook_url', 'webhook_payload')
  if not seen[1] then return end
  tell(seen[1], 'type', kind, 'at_ms', now, 'job', id, 'n', n, 'event', event, 'response', response)
  if event == '' then return end
  if seen[2] and string.find(seen[2], kind .. ' ', 1, true) then
    deliver(event, seen[3], seen[1], id, keep_ms, now, kind, 'url', seen[4], 'payload', seen[5])
  end
  for _, endpoint in ipairs(redis.call('ZRANGE', key('endpoints:' .. seen[1]), 0, -1)) do
    offer(endpoint, kind, event, id, keep_ms, now)
    if response ~= '' then offer(endpoint, response, response_event(event), id, keep_ms, now) end
  end
end

-- From the end on a job is kept for as long as its client said; a day, where its record does not tell. -> until when its
-- deliveries are kept
local function retain(id)
  local seen = redis.call('HMGET', record(id), 'result_ttl_s', 'owner', 'watched', 'deliveries')
  local ttl_ms = (tonumber(seen[1]) or 86400) * 1000
  if seen[2] then redis.call('ZADD', key('retained'), now_ms() + ttl_ms, id .. ' ' .. seen[2]) end
  redis.call('PEXPIRE', record(id), ttl_ms)
  if seen[3] then redis.call('PEXPIRE', key('events:' .. id), ttl_ms) end
  local keep_ms = now_ms() + ttl_ms + 1000
  for delivery in string.gmatch(seen[4] or '', '%S+') do keep_as_job(delivery, keep_ms) end
  return keep_ms
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
  local n, keep_ms = emit_end(id), retain(id)
  announce(id, n, 'job.' .. status, 'evt_' .. string.sub(id, 5), keep_ms)
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
  if redis.call('HDEL', record(id), 'said') == 1 then emit(id, 'reset') end
  redis.call('HDEL', record(id), 'stage')
  redis.call('ZREM', key('running'), id)
  redis.call('ZADD', lane(class_of(id)), at, id)
  book(id, 'running', 'queued')
  announce(id, emit(id, 'queued'), 'job.queued', '')
end
