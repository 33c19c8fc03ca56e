-- id, worker, lease_ms, token -> {fence, attempt, request, run_timeout_s, created_ms, now_ms, engine_deaths, class}
-- | nil: nothing to claim, or its owner's key has as many jobs running as it may
local id, worker, lease_ms, token = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local job, now = record(id), now_ms()
local seen = redis.call('HMGET', job, 'status', 'token', 'owner')
-- The worker repeats a call whose reply was lost: it has the job already.
if not (seen[1] == 'running' and seen[2] == token) then
  if not may_move(seen[1], 'running') then return nil end
  if redis.call('SCARD', key('running_of:' .. seen[3])) >= limit_of(seen[3], 'max_running') then
    redis.call('HSET', job, 'rings', -1)
    redis.call('ZADD', lane(class_of(id)), now + 1000, id)
    return nil
  end
  redis.call('HINCRBY', job, 'fence', 1)
  redis.call('HINCRBY', job, 'attempt', 1)
  redis.call('HSET', job, 'status', 'running', 'stage', 'fetching', 'worker', worker, 'token', token)
  redis.call('HSETNX', job, 'started_ms', now)
  redis.call('ZREM', lane(class_of(id)), id)
  book(id, 'queued', 'running')
  local attempt = redis.call('HGET', job, 'attempt')
  announce(id, 'job.running', 'evt_' .. string.sub(id, 5) .. '_' .. redis.call('HGET', job, 'fence'), 'attempt', attempt)
end
redis.call('ZADD', key('running'), now + lease_ms, id)
local rest = redis.call('HMGET', job, 'fence', 'attempt', 'request', 'run_timeout_s', 'created_ms', 'engine_deaths')
local deaths = tonumber(rest[6] or 0)
return {tonumber(rest[1]), tonumber(rest[2]), rest[3], tonumber(rest[4]), tonumber(rest[5]), now, deaths, class_of(id)}
