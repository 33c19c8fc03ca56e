-- batch, line, offset, n_bytes -> 1 | 0 where the input is not taken up to just this line
local batch, line, offset, n_bytes = key('batch:' .. ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local seen = redis.call('HMGET', batch, 'status', 'offset', 'line')
if seen[1] ~= 'in_progress' or tonumber(seen[2] or 0) > offset or tonumber(seen[3] or 0) ~= line - 1 then return 0 end
redis.call('HSET', batch, 'offset', offset + n_bytes, 'line', line)
redis.call('HSET', batch .. ':flight', line, offset .. ':' .. n_bytes)
return 1
