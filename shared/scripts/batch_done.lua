-- batch, line, 'output' | 'error', result, 'completed' | 'failed' | '' -> 1 | 0: keep a line's result, once
local batch, line, kind, result, count = key('batch:' .. ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HDEL', batch .. ':flight', line) == 0 then return 0 end
redis.call('RPUSH', batch .. ':' .. kind, result)
if count ~= '' then redis.call('HINCRBY', batch, count, 1) end
return 1
