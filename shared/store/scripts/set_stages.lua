-- worker, then id, fence, stage of each job: say what running jobs are doing
local function note_stage(id, fence, stage)
  local seen = redis.call('HMGET', record(id), 'status', 'fence', 'worker', 'stage', 'created_ms', 'events', 'hist', 'watched')
  if seen[1] ~= 'running' or seen[2] ~= fence or seen[3] ~= ARGV[1] or seen[4] == stage then return end
  local job = {id = id, created_ms = tonumber(seen[5]), events = tonumber(seen[6]) or 0, hist = seen[7], watched = seen[8]}
  write(job, 'stage', stage, emit(job, stage))
end
for i = 2, #ARGV, 3 do try(note_stage, ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return 1
