-- limit -> 1 | 0 where nothing is left: give up some of the deliveries of targets that are off. Few at a time: Redis answers nobody
-- meanwhile.
local name = redis.call('LINDEX', key('dropping'), 0)
if not name then return 0 end
local dropped, target = key('dropped:' .. name), string.match(name, '^(.*) %d+$')
local popped = redis.call('ZPOPMIN', dropped, ARGV[1])
if not popped[1] then redis.call('LPOP', key('dropping')) end
for n = 1, #popped, 2 do
  local hash = key('delivery:' .. popped[n])
  local ok, state = try(redis.call, 'HGET', hash, 'state')
  -- An endpoint that was enabled again meanwhile may have it due once more.
  if ok and state == 'pending' and not redis.call('ZSCORE', key('due:' .. target), popped[n]) then
    redis.call('HSET', hash, 'state', 'given_up', 'token', '')
    keep(popped[n])
  end
end
return 1
