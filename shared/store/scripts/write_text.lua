-- id, fence, offset, text of each job -> 1 | 0 for each, in order; 0: the claim is lost. Texts are pieces of what was generated
-- from byte `offset` on: a call whose reply was lost is repeated, maybe with more text, and adds only what is new.
local answers = {}

local function say(id, fence, offset, text)
  local seen = redis.call('HMGET', record(id), 'status', 'fence', 'said')
  if seen[1] ~= 'running' or seen[2] ~= fence then return 0 end
  local said = tonumber(seen[3] or 0)
  local new = offset <= said and string.sub(text, said - offset + 1) or ''
  if new ~= '' then
    local n = redis.call('HINCRBY', record(id), 'events', 1)
    redis.call('HSET', record(id), 'said', said + #new)
    redis.call('XADD', key('events:' .. id), 'MAXLEN', '~', 10000, n .. '-0', 'text', new)
    redis.call('PUBLISH', key('news'), id)
  end
  return 1
end

for i = 1, #ARGV, 4 do
  local ok, answer = try(say, ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3])
  answers[#answers + 1] = ok and answer or 0
end
return answers
