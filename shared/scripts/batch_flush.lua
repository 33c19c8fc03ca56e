-- batch, kind, part, n_lines -> 1 | 0 where that part was written before: its lines need not be kept here any more
local batch, kind, part, n_lines = key('batch:' .. ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(redis.call('HGET', batch, kind .. '_parts') or 0) ~= part then return 0 end
redis.call('LTRIM', batch .. ':' .. kind, n_lines, -1)
redis.call('HSET', batch, kind .. '_parts', part + 1)
return 1
