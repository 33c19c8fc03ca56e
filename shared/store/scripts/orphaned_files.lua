-- keep_ms, then for each file its name and the key of the record that it belongs to -> names of orphans: no record has stood
-- behind them for so long. That is counted from when a sweep first found it so: what a file's own date says is another clock's word.
local now, old = now_ms(), {}
for i = 2, #ARGV, 2 do
  local name = ARGV[i]
  if redis.call('EXISTS', key(ARGV[i + 1])) == 1 then
    redis.call('ZREM', key('unclaimed'), name)
  else
    redis.call('ZADD', key('unclaimed'), 'NX', now, name)
    if tonumber(redis.call('ZSCORE', key('unclaimed'), name)) <= now - ARGV[1] then old[#old + 1] = name end
  end
end
return old
