-- endpoint, since_ms -> how many deliveries became due: what its owner's jobs did since then, as far as it was not handed over
local endpoint, n = ARGV[1], 0
local owner = redis.call('HGET', key('endpoint:' .. endpoint), 'owner')
if not owner then return 0 end
for _, entry in ipairs(redis.call('XRANGE', key('feed:' .. owner), ARGV[2] .. '-0', '+')) do
  local told = {}
  for i = 1, #entry[2], 2 do told[entry[2][i]] = entry[2][i + 1] end
  if told.event ~= '' and wants(endpoint, told.type) then
    n = n + deliver(told.event .. ':' .. endpoint, endpoint, told.job, told.n,
      'at_ms', told.at_ms, 'type', told.type, 'event', told.event, 'endpoint', endpoint)
  end
end
return n
