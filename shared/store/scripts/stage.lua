-- worker, then id, fence, stage of each job: say what running jobs are doing
local NEEDED = {'status', 'fence', 'worker', 'stage', 'created_ms', 'events', 'hist', 'watched'} -- the rest would cost as much again
local function note_stage(id, fence, stage)
  local job = read_fields(id, NEEDED)
  if not job or job.status ~= 'running' or job.fence ~= fence or job.worker ~= ARGV[1] or job.stage == stage then return end
  set(job, 'stage', stage)
  emit(job, stage)
  save(job)
end
for i = 2, #ARGV, 3 do try(note_stage, ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return 1
