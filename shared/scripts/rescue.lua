-- max_attempts, ring_every_ms, limit, class, the list of its doorbells, the error JSON of worker_lost and of start_deadline, how
-- many jobs the caller can run itself, then the workers that are known to be dead
-- -> ids of queued jobs of this class that have no doorbell
local max_attempts, ring_every_ms, limit, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[8])
local now, ring, dead = now_ms(), {}, {}
for i = 9, #ARGV do dead[ARGV[i]] = true end
if next(dead) then
  for _, id in ipairs(redis.call('ZRANGE', key('running'), 0, -1)) do
    if dead[redis.call('HGET', record(id), 'worker')] then redis.call('ZADD', key('running'), 0, id) end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('running'), '-inf', now, 'LIMIT', 0, limit)) do
  local seen = redis.call('HMGET', record(id), 'attempt', 'cancel', 'status')
  if seen[3] ~= 'running' then
    redis.call('ZREM', key('running'), id)
  else
    redis.call('HINCRBY', record(id), 'fence', 1)
    if seen[2] then
      finish(id, 'cancelled', 'error', seen[2])
    elseif tonumber(seen[1]) >= max_attempts then
      finish(id, 'failed', 'error', ARGV[6])
    else
      queue(id, 0, -1)
    end
  end
end
-- As many doorbells as there are queued jobs: then none is lost, the workers are only busy, and each ring would add one more.
-- But a job that was handed back or rescued has none, whatever the count says: it must not wait until the backlog is gone.
local queued = lane(ARGV[4])
local missing = redis.call('ZCARD', queued) - redis.call('LLEN', ARGV[5])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', queued, '-inf', now, 'LIMIT', 0, limit)) do
  local seen = redis.call('HMGET', record(id), 'created_ms', 'start_deadline_s', 'attempt', 'status', 'rings')
  if seen[4] ~= 'queued' then
    redis.call('ZREM', queued, id)
  elseif seen[3] == '0' and now > seen[1] + seen[2] * 1000 then
    finish(id, 'failed', 'error', ARGV[7])
  elseif seen[5] == '-1' or #ring < missing then
    local rings = redis.call('HINCRBY', record(id), 'rings', 1)
    redis.call('ZADD', queued, now + ring_every_ms * 2 ^ math.max(0, math.min(rings - 1, 6)), id)
    ring[#ring + 1] = id
  else
    redis.call('ZADD', queued, now + ring_every_ms, id)
  end
end
if #ring > room then redis.call('INCRBY', key('count:rings'), #ring - room) end
return ring
