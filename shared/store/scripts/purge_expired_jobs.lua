-- limit -> {ids of jobs whose retention is over, entries that name no job}; they leave all lists
local gone, odd = {}, {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', key('retained'), '-inf', now_ms(), 'LIMIT', 0, ARGV[1])) do
  local id, owner, group = string.match(member, '^(%S+) (%S+) ?(.*)$')
  redis.call('ZREM', key('retained'), member)
  if id then
    for _, bit in ipairs(traces(id, owner)) do redis.call('SETBIT', filter(0), bit, 1) end
    for _, whose in ipairs(lists_with(owner, group)) do
      for _, status in ipairs(ENDED) do redis.call('ZREM', list_of(whose, status), id) end
    end
    gone[#gone + 1] = id
  else
    odd[#odd + 1] = member
  end
end
if #gone > 0 then redis.call('EXPIRE', filter(0), (GONE_DAYS + 1) * 86400) end
return {gone, odd}
