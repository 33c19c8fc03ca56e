-- worker, 1 where a job was alone in the engine, else 0, the error JSON of a damaged record, then id and fence of each -> {ids set aside,
-- for each 1 | 0, as of `release`}: an engine died with these jobs in it, who are one group of suspects from now on. No attempt is
-- charged. A call whose reply was lost is repeated.
local worker, alone, group, answers = ARGV[1], tonumber(ARGV[2]), nil, {}
local function suspect(job)
  if not group then
    group = new_group(job.model, alone == 1)
    mind(job.model, worker)
  end
  set(job, 'suspect', group)
  set(job, 'engine_deaths', math.max(1, tonumber(job.engine_deaths) or 0) + alone)
  uncharge(job)
end
for n = 4, #ARGV, 2 do
  local is_sound, answer = try(hand_back, ARGV[n], worker, ARGV[n + 1], 'suspect', suspect)
  if not is_sound then set_aside(ARGV[n], ARGV[3]) end
  answers[#answers + 1] = is_sound and answer or 0
end
return {aside, answers}
