-- the error JSON of a damaged record, then of each end: id, worker, fence, status, its output's JSON or '', its error's JSON or '' -> {ids set
-- aside, for each 1 | 0 where fence, worker or state say that it is too late}. A call whose reply was lost is repeated, and gets the
-- same answer: whoever else ends a job changes the fence.
local function complete(id, worker, fence, status, output, err)
  local job, facts = read(id), {}
  if not job then
    forget_held(worker, id)
    return 0
  end
  if job.fence ~= fence or job.worker ~= worker then
    redis.call('HINCRBY', key('totals'), 'fenced', 1)
    return 0
  end
  if job.status == status then return 1 end
  if job.status ~= 'running' or not may_move(job.status, status) then return 0 end
  if output ~= '' then facts[1], facts[2] = 'output', output end
  if err ~= '' then facts[#facts + 1], facts[#facts + 2] = 'error', err end
  finish(job, status, unpack(facts))
  return 1
end
local answers = {}
for n = 2, #ARGV, 6 do
  local is_sound, answer = try(complete, unpack(ARGV, n, n + 5))
  if not is_sound then set_aside(ARGV[n], ARGV[1]) end
  answers[#answers + 1] = is_sound and answer or 0
end
return {aside, answers}
