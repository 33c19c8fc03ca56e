-- id, worker, fence, why, after_ms -> 1 | 0: a worker hands a job back. why: 'retry' charges the attempt, 'leave' does not, 'suspect'
-- does not either, but remembers that an engine died with this job in it. A call whose reply was lost is repeated.
local worker, fence, why, after_ms, job = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), read(ARGV[1], {'engine_deaths'})
if not job then
  forget_held(worker, ARGV[1])
  return 0
end
if job.released == worker .. ' ' .. fence then return 1 end
if job.status ~= 'running' or job.fence ~= fence or job.worker ~= worker then return 0 end
set(job, 'released', worker .. ' ' .. fence)
if job.cancel then
  set(job, 'fence', fence + 1)
  finish(job, 'cancelled', 'error', job.cancel)
  return 1
end
if why ~= 'retry' then set(job, 'attempt', math.max(0, job.attempt - 1)) end
if why == 'suspect' then set(job, 'engine_deaths', (tonumber(job.engine_deaths) or 0) + 1) end
redis.call('HINCRBY', key('totals'), 'released ' .. why, 1)
put_back(job, after_ms > 0 and now_ms() + after_ms or nil)
return 1
