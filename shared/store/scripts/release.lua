-- needs: jobs
-- id, fence, why, ring_after_ms -> 1 | 0: a worker hands a job back. why: 'retry' charges the attempt, 'leave' does not,
-- 'suspect' does not either, but remembers that an engine died with this job in it. A call whose reply was lost is repeated.
local id, fence, why, ring_after_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local seen = redis.call('HMGET', record(id), 'status', 'fence', 'cancel', 'released', 'owner')
if seen[4] == fence then return 1 end
if seen[1] ~= 'running' or seen[2] ~= fence then return 0 end
redis.call('HINCRBY', record(id), 'fence', 1)
redis.call('HSET', record(id), 'released', fence)
free_turn(seen[5])
if seen[3] then
  finish(id, 'cancelled', 'error', seen[3])
  return 1
end
if why ~= 'retry' then redis.call('HINCRBY', record(id), 'attempt', -1) end
if why == 'suspect' then redis.call('HINCRBY', record(id), 'engine_deaths', 1) end
queue(id, ring_after_ms > 0 and now_ms() + ring_after_ms or 0, -1)
return 1
