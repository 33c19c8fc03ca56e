-- batch, token, status, keep_s, fields -> nil where the lease is lost | the status from now on: a batch being cancelled is not
-- moved to another open one. An end closes the batch, and goes to everybody who asked for it
local OPEN = {validating = true, in_progress = true, finalizing = true, cancelling = true}
local id, token, status, batch, now = ARGV[1], ARGV[2], ARGV[3], batch_key(ARGV[1]), now_ms()
local seen = redis.call('HMGET', batch, 'status', 'owner', 'token')
if seen[1] == status and seen[3] == token then return status end -- a call repeated, whose reply was lost
if not runs(id, token) or not OPEN[seen[1]] then return false end
if seen[1] == 'cancelling' and OPEN[status] then return seen[1] end
redis.call('HSET', batch, 'status', status, status .. '_at', math.floor(now / 1000), unpack(ARGV, 5))
if OPEN[status] then return status end
local mine, open = key('batches:' .. seen[2]), key('batches_open:' .. seen[2])
redis.call('ZREM', key('batches_open'), id)
redis.call('SREM', open, id)
redis.call('DEL', batch .. ':flight')
for _, kind in ipairs({'output', 'error'}) do redis.call('DEL', batch .. ':' .. kind, batch .. ':' .. kind .. '_parts') end
redis.call('EXPIRE', batch, ARGV[4])
if redis.call('EXISTS', open) == 0 then redis.call('EXPIRE', mine, ARGV[4]) end -- by then every record in it has gone
local kind, event = 'batch.' .. status, 'evt_' .. string.sub(id, 7)
write_feed(seen[2], 'type', kind, 'at_ms', now, 'job', id, 'n', 1, 'event', event)
for _, endpoint in ipairs(redis.call('ZRANGE', key('endpoints:' .. seen[2]), 0, -1)) do
  deliver_if_wanted(endpoint, kind, event, id, now + ARGV[4] * 1000 + 1000, now)
end
return status
