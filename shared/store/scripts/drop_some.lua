-- limit -> 1 | 0 where nothing is left: give up some of the deliveries of targets that are off. Few at a time: Redis answers nobody
-- meanwhile.
local name = redis.call('LINDEX', key('dropping'), 0)
if not name then return 0 end
local dropped, target = key('dropped:' .. name), string.match(name, '^(.*) %d+$')
local popped = redis.call('ZPOPMIN', dropped, ARGV[1])
if not popped[1] then redis.call('LPOP', key('dropping')) end
for n = 1, #popped, 2 do
  local hash = key('delivery:' .. popped[n])
  -- An endpoint that was enabled again meanwhile may have it due once more.
  if not redis.call('ZSCORE', key('due:' .. target), popped[n]) and try(redis.call, 'HGET', hash, 'state') then
    if redis.call('HGET', hash, 'state') == 'pending' then redis.call('HSET', hash, 'state', 'given_up') end
  end
end
return 1
