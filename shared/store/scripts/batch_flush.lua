-- batch, token, kind, how many parts there were, the new part's name, n_lines -> nil where the lease is lost | 1 | 0 where there
-- is another part by now: the oldest results are in a part, and need not be kept here any more
local id, kind, batch = ARGV[1], ARGV[3], batch_key(ARGV[1])
if not runs(id, ARGV[2]) then return false end
local parts = batch .. ':' .. kind .. '_parts'
if redis.call('LLEN', parts) ~= tonumber(ARGV[4]) then return redis.call('LINDEX', parts, -1) == ARGV[5] and 1 or 0 end
redis.call('RPUSH', parts, ARGV[5])
redis.call('LTRIM', batch .. ':' .. kind, ARGV[6], -1)
return 1
