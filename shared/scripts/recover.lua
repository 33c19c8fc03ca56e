-- endpoint, since_ms -> how many deliveries became due: what its owner's jobs did since then, as far as it was not handed over
local endpoint, n = ARGV[1], 0
local owner = redis.call('HGET', key('endpoint:' .. endpoint), 'owner')
if not owner then return 0 end
for _, entry in ipairs(redis.call('XRANGE', key('feed:' .. owner), ARGV[2] .. '-0', '+')) do
  local told = {}
  for i = 1, #entry[2], 2 do told[entry[2][i]] = entry[2][i + 1] end
  if told.event ~= '' then
    n = n + offer(endpoint, told.type, told.event, told.job, told.n, told.at_ms)
    if (told.response or '') ~= '' then
      n = n + offer(endpoint, told.response, response_event(told.event), told.job, told.n, told.at_ms)
    end
  end
end
return n
