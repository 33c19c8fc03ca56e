-- id, fence, offset, text of each job -> 1 | 0 for each, in order; 0: the claim is lost. Texts are pieces of what was generated
-- from byte `offset` on: a call whose reply was lost is repeated, maybe with more text, and adds only what is new.
local answers = {}
for i = 1, #ARGV, 4 do
  local id, fence, offset, text = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local seen = redis.call('HMGET', record(id), 'status', 'fence', 'said')
  if seen[1] == 'running' and seen[2] == fence then
    local said = tonumber(seen[3] or 0)
    local new = offset <= said and string.sub(text, said - offset + 1) or ''
    if new ~= '' then
      emit(id, 'job.delta', 'text', new)
      redis.call('HINCRBY', record(id), 'said', #new)
    end
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
