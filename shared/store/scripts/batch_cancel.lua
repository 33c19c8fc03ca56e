-- batch -> status before the call: one whose lines are not all done stops
local status = redis.call('HGET', batch_key(ARGV[1]), 'status')
if status == 'validating' or status == 'in_progress' then
  redis.call('HSET', batch_key(ARGV[1]), 'status', 'cancelling', 'cancelling_at', math.floor(now_ms() / 1000))
end
return status
