-- id, worker, fence, status, then 'output' and/or 'error', each with its JSON -> 1 | 0 when fence, worker or state say that it is too
-- late. A call whose reply was lost is repeated, and gets the same answer: whoever else ends a job changes the fence.
local worker, fence, status, job = ARGV[2], ARGV[3], ARGV[4], read(ARGV[1])
if not job then forget_held(worker, ARGV[1]) end
if not job then return 0 end
if job.fence ~= fence or job.worker ~= worker then
  redis.call('HINCRBY', key('totals'), 'fenced', 1)
  return 0
end
if job.status == status then return 1 end
if job.status ~= 'running' or not may_move(job.status, status) then return 0 end
finish(job, status, unpack(ARGV, 5))
return 1
