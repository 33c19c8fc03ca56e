-- limit -> ids of jobs whose retention is over; they leave their owner's list
local gone = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', key('retained'), '-inf', now_ms(), 'LIMIT', 0, ARGV[1])) do
  local id, owner = string.match(member, '^(%S+) (.*)$')
  for _, bit in ipairs(traces(id, owner)) do redis.call('SETBIT', filter(0), bit, 1) end
  redis.call('ZREM', key('jobs:' .. owner), id)
  redis.call('ZREM', key('retained'), member)
  gone[#gone + 1] = id
end
if #gone > 0 then redis.call('EXPIRE', filter(0), (GONE_DAYS + 1) * 86400) end
return gone
