-- needs: gone
-- limit -> {ids of jobs whose retention is over, entries that name no job}; they leave their owner's list
local gone, odd = {}, {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', key('retained'), '-inf', now_ms(), 'LIMIT', 0, ARGV[1])) do
  local id, owner = string.match(member, '^(%S+) (.*)$')
  redis.call('ZREM', key('retained'), member)
  if id then
    for _, bit in ipairs(traces(id, owner)) do redis.call('SETBIT', filter(0), bit, 1) end
    redis.call('ZREM', key('jobs:' .. owner), id)
    gone[#gone + 1] = id
  else
    odd[#odd + 1] = member
  end
end
if #gone > 0 then redis.call('EXPIRE', filter(0), (GONE_DAYS + 1) * 86400) end
return {gone, odd}
