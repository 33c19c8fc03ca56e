-- needs: jobs
-- id, or '' for the job of an owner whose turn it is, that owner, whether it may be a bulk job ('1' | ''), worker, lease_ms,
-- token, the error JSON of start_deadline and of a damaged record, the worker's model, ring_every_ms
-- -> {ids set aside}, and where there is a job to run {.., id, fence, attempt, request, run_timeout_s, created_ms, now_ms,
-- engine_deaths, class, its owner where its key has a limit, or ''}; where there is one that may not be run here {.., id}.
-- Jobs of a key with a limit take their turns in order: a claim for one of them may get an older one, and it waits for its own.
local in_hand, owner, bulk, worker, lease_ms, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local model, now = ARGV[9], now_ms()

local function hold(id, first_look_ms)
  local rank = 0
  for n, class in ipairs(CLASSES) do if class == class_of(id) then rank = n end end
  -- The more urgent classes first, the oldest first in each.
  redis.call('ZADD', key('held:' .. owner), rank * 2 ^ 42 + redis.call('HGET', record(id), 'created_ms'), id)
  redis.call('ZADD', lane(class_of(id)), '+inf', id)
  redis.call('ZADD', key('holding'), 'NX', first_look_ms, owner)
end

-- -> the job to start, or nil; and true where this very call has started it before, and its reply was lost
local function choose(id)
  local seen = id ~= '' and redis.call('HMGET', record(id), 'status', 'token', 'owner') or {}
  if seen[1] == 'running' and seen[2] == token then return id, true end
  owner = seen[3] or owner
  local queued, limit, first = may_move(seen[1], 'running') and id, limit_of(owner, 'max_running'), nil
  first = redis.call('ZRANGE', key('held:' .. owner), 0, 0)[1]
  if limit == math.huge and not first then return queued end
  local had = redis.call('GET', key('claimed:' .. token))
  if had and redis.call('HGET', record(had), 'token') == token then return had, true end
  if redis.call('SCARD', key('running_of:' .. owner)) >= limit then
    if queued then hold(queued, now + 5000) end
    return nil
  end
  if queued then
    hold(queued, 0)
    first = redis.call('ZRANGE', key('held:' .. owner), 0, 0)[1]
  end
  if first then redis.call('SET', key('claimed:' .. token), first, 'PX', 120000) end
  return first
end

local function start(id)
  local seen = redis.call('HMGET', record(id), 'created_ms', 'start_deadline_s', 'started_ms')
  if not seen[3] and now > seen[1] + seen[2] * 1000 then
    finish(id, 'failed', 'error', ARGV[7])
    return false
  end
  redis.call('HINCRBY', record(id), 'fence', 1)
  redis.call('HINCRBY', record(id), 'attempt', 1)
  redis.call('HSET', record(id), 'status', 'running', 'stage', 'fetching', 'worker', worker, 'token', token)
  redis.call('HSETNX', record(id), 'started_ms', now)
  redis.call('ZREM', lane(class_of(id)), id)
  redis.call('ZREM', key('deadlines'), id)
  unpark(id)
  book(id, 'queued', 'running')
  local moved = redis.call('HMGET', record(id), 'fence', 'attempt')
  announce(id, emit(id, 'running', moved[2]), 'job.running', 'evt_' .. string.sub(id, 5) .. '_' .. moved[1])
  return true
end

-- -> what the call gives beside the ids set aside, or nil where another one is to be tried
local function claim(asked)
  local id, again = choose(asked)
  if not id then return {} end
  in_hand = id
  local class, wanted = class_of(id), redis.call('HGET', record(id), 'model')
  if not again and wanted and wanted ~= model then -- its own workers' rescues find it
    redis.call('ZREM', key('held:' .. owner), id)
    park(id, class, wanted, now + ARGV[10])
    return nil
  end
  if class == 'bulk' and bulk == '' then
    redis.call('DEL', key('claimed:' .. token))
    return {id}
  end
  if not again and not start(id) then return nil end
  redis.call('ZADD', key('running'), now + lease_ms, id)
  local seen = redis.call('HMGET', record(id), 'fence', 'attempt', 'request', 'run_timeout_s', 'created_ms', 'engine_deaths')
  local limited = limit_of(owner, 'max_running') < math.huge and owner or ''
  local facts = {id, tonumber(seen[1]), tonumber(seen[2]), seen[3], tonumber(seen[4]), tonumber(seen[5]), now, tonumber(seen[6] or 0)}
  for n = 1, 8 do if not facts[n] then error('a field is missing') end end
  facts[9], facts[10] = class, limited
  return facts
end

for _ = 1, 20 do
  local ok, given = try(claim, in_hand)
  if not ok then
    redis.call('ZREM', key('held:' .. owner), in_hand)
    set_aside(in_hand, ARGV[8])
  elseif given then
    return {aside, unpack(given)}
  end
  redis.call('DEL', key('claimed:' .. token))
  in_hand = '' -- late, or damaged: whose turn is it then?
end
return {aside}
