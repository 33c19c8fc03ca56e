-- worker, lease_ms, how many jobs it holds as it knows -> {ids that are to be cancelled, and where it holds another number of jobs,
-- all of them as {id, fence, ...}}: renew a worker's lease, which is that of all its jobs
local worker, lease_ms = ARGV[1], tonumber(ARGV[2])
redis.call('ZADD', key('workers'), keep_time(lease_ms) + lease_ms, worker)
local held, orders, cancelled = key('held:' .. worker), key('orders:' .. worker), {}
for _, id in ipairs(redis.call('SMEMBERS', orders)) do
  if redis.call('HEXISTS', held, id) == 1 then cancelled[#cancelled + 1] = id else redis.call('SREM', orders, id) end
end
if redis.call('HLEN', held) == tonumber(ARGV[3]) then return {cancelled} end
return {cancelled, redis.call('HGETALL', held)}
