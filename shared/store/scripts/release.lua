-- id, worker, fence, why, after_ms -> 1 | 0: a worker hands a job back. why: 'retry' charges the attempt, 'leave' does not. A call whose
-- reply was lost is repeated.
local function charge(job)
  if ARGV[4] ~= 'retry' then return uncharge(job) end
  if job.suspect and job.stage == 'generating' then -- its engine is alive
    job.suspect = nil
    redis.call('HDEL', record(job.id), 'suspect', 'engine_deaths')
  end
end
local after_ms = tonumber(ARGV[5])
return hand_back(ARGV[1], ARGV[2], ARGV[3], ARGV[4], charge, after_ms > 0 and now_ms() + after_ms or nil)
