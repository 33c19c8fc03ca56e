-- needs: clock, jobs
-- max_attempts, ring_every_ms, limit, class, the list of its doorbells, the error JSON of worker_lost and of a damaged record, how
-- many jobs the caller can run itself, lease_ms, the caller's model, then the workers that are known to be dead
-- -> {ids of queued jobs of this class and the caller's model that have no doorbell, ids set aside}
local max_attempts, ring_every_ms, limit, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[8])
local model, now, ring, dead = ARGV[10], keep_time(tonumber(ARGV[9])), {}, {}
for i = 11, #ARGV do dead[ARGV[i]] = true end

local function take_back(id)
  local seen = redis.call('HMGET', record(id), 'attempt', 'cancel', 'status', 'owner')
  if seen[3] ~= 'running' then return redis.call('ZREM', key('running'), id) end
  local attempt = seen[1] + 0
  redis.call('HINCRBY', record(id), 'fence', 1)
  if seen[2] then
    finish(id, 'cancelled', 'error', seen[2])
  elseif attempt >= max_attempts then
    finish(id, 'failed', 'error', ARGV[6])
  else
    queue(id, 0, -1)
  end
  free_turn(seen[4])
end

if next(dead) then
  for _, id in ipairs(redis.call('ZRANGE', key('running'), 0, -1)) do
    local ok, worker = try(redis.call, 'HGET', record(id), 'worker')
    if not ok or dead[worker] then redis.call('ZADD', key('running'), 0, id) end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('running'), '-inf', now, 'LIMIT', 0, limit)) do
  if not try(take_back, id) then set_aside(id, ARGV[7]) end
end

-- Those that a worker of another model was rung for: as many as the caller has room for, the others are left to the next.
for _, id in ipairs(room > 0 and redis.call('ZRANGE', parked(ARGV[4], model), 0, math.min(room, limit) - 1) or {}) do
  redis.call('ZREM', parked(ARGV[4], model), id)
  local ok, status = try(redis.call, 'HGET', record(id), 'status')
  if ok and status == 'queued' then ring[#ring + 1] = id end
end

-- As many doorbells as there are queued jobs: then none is lost, the workers are only busy, and each ring would add one more.
-- But a job that was handed back or rescued has none, whatever the count says: it must not wait until the backlog is gone.
local queued = lane(ARGV[4])
local missing = #ring + redis.call('ZCARD', queued) - redis.call('ZCOUNT', queued, '+inf', '+inf') - redis.call('LLEN', ARGV[5])

local function look(id)
  local seen = redis.call('HMGET', record(id), 'status', 'rings', 'model')
  if seen[1] ~= 'queued' then
    redis.call('ZREM', queued, id)
  elseif seen[3] and seen[3] ~= model then
    park(id, ARGV[4], seen[3], now + ring_every_ms)
  elseif seen[2] == '-1' or #ring < missing then
    local rings = redis.call('HINCRBY', record(id), 'rings', 1)
    redis.call('ZADD', queued, now + ring_every_ms * 2 ^ math.max(0, math.min(rings - 1, 6)), id)
    ring[#ring + 1] = id
  else
    redis.call('ZADD', queued, now + ring_every_ms, id)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', queued, '-inf', now, 'LIMIT', 0, limit)) do
  if not try(look, id) then set_aside(id, ARGV[7]) end
end
if #ring > room then redis.call('INCRBY', key('count:rings'), #ring - room) end
return {ring, aside}
