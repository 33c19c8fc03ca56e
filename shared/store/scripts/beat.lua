-- needs: clock, events
-- lease_ms, then id, fence, stage of each job -> one of 'held', 'cancel', 'lost' for each, in order. One who holds none beats, too:
-- it is there, so leases run
local lease_ms, answers = tonumber(ARGV[1]), {}
local now = keep_time(lease_ms)

local function beat(id, fence, stage)
  local seen = redis.call('HMGET', record(id), 'status', 'fence', 'cancel', 'stage')
  if seen[1] ~= 'running' or seen[2] ~= fence then return 'lost' end
  if seen[4] ~= stage then
    redis.call('HSET', record(id), 'stage', stage)
    emit(id, stage)
  end
  redis.call('ZADD', key('running'), now + lease_ms, id)
  return seen[3] and 'cancel' or 'held'
end

for i = 2, #ARGV, 3 do
  local ok, answer = try(beat, ARGV[i], ARGV[i + 1], ARGV[i + 2])
  answers[#answers + 1] = ok and answer or 'lost'
end
return answers
