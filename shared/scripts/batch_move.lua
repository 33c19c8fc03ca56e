-- batch, status, statuses in which it is left alone, keep_s, fields -> 1 | 0: an end closes the batch, and is told to everybody
-- who asked for it
local OPEN = {validating = true, in_progress = true, finalizing = true, cancelling = true}
local id, status, batch, now = ARGV[1], ARGV[2], key('batch:' .. ARGV[1]), now_ms()
local seen = redis.call('HMGET', batch, 'status', 'owner')
if not OPEN[seen[1]] or string.find(ARGV[3], seen[1] .. ' ', 1, true) then return 0 end
redis.call('HSET', batch, 'status', status, status .. '_at', math.floor(now / 1000), unpack(ARGV, 5))
if OPEN[status] then return 1 end
redis.call('ZREM', key('batches_open'), id)
redis.call('DEL', batch .. ':flight', batch .. ':output', batch .. ':error')
redis.call('EXPIRE', batch, ARGV[4])
local kind, event = 'batch.' .. status, 'evt_' .. string.sub(id, 7)
tell(seen[2], 'type', kind, 'at_ms', now, 'job', id, 'n', 1, 'event', event)
for _, endpoint in ipairs(redis.call('ZRANGE', key('endpoints:' .. seen[2]), 0, -1)) do
  offer(endpoint, kind, event, id, 1, now)
end
return 1
