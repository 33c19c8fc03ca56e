-- A clock set back by more than this is noticed; until then what waits, waits a little longer.
local STEP_MS = 5000

local function bring_near(waits, now, step)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', waits, '(' .. now, '+inf')) do redis.call('ZINCRBY', waits, step, member) end
end

-- Look whether the clock was set back, which would have all that waits wait for as long as the step: due times follow it.
local function follow_clock(seen_ms)
  local now = now_ms()
  local step = now - (seen_ms or 0)
  if step >= 1000 or step < -STEP_MS then redis.call('HSET', key('clock'), 'seen_ms', now) end
  if step >= -STEP_MS then return end
  for _, name in ipairs({'deadlines', 'delayed', 'workers', 'batches_open'}) do bring_near(key(name), now, step) end
  for _, target in ipairs(redis.call('ZRANGE', key('due'), 0, -1)) do
    bring_near(key('due:' .. target), now, step)
    local paused = tonumber(redis.call('HGET', key('target:' .. target), 'paused_until_ms') or 0)
    if paused > now then redis.call('HINCRBY', key('target:' .. target), 'paused_until_ms', step) end
  end
  bring_near(key('due'), now, step)
  -- Notices of dead workers would stay for as long; those of living ones are put up each second.
  for _, worker in ipairs(redis.call('ZRANGE', key('notices'), 0, -1)) do
    redis.call('PEXPIRE', key('worker:' .. worker), STEP_MS)
    redis.call('ZADD', key('notices'), now + STEP_MS, worker)
  end
end

-- Leases run only while somebody could renew them. Every beat and rescue leaves its time: one that comes half a lease after
-- the last, or before it, finds that Redis was away, took no writes or had its clock set, and all leases begin anew. -> now, ms
local function keep_time(lease_ms)
  local now, seen = now_ms(), redis.call('HMGET', key('clock'), 'seen_ms', 'beat_ms')
  local last = tonumber(seen[2] or now)
  follow_clock(seen[1])
  redis.call('HSET', key('clock'), 'beat_ms', now)
  if now - last > lease_ms / 2 or now - last < -STEP_MS then
    for _, worker in ipairs(redis.call('ZRANGE', key('workers'), 0, -1)) do redis.call('ZADD', key('workers'), now + lease_ms, worker) end
  end
  return now
end
