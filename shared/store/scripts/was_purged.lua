-- id, owner -> 1 | 0: this owner's job ended, and its retention is over
for _, status in ipairs(ENDED) do
  if redis.call('ZSCORE', list_of(ARGV[2], status), ARGV[1]) then return 1 end
end
for day = 0, GONE_DAYS do
  local seen = 0
  for _, bit in ipairs(traces(ARGV[1], ARGV[2])) do seen = seen + redis.call('GETBIT', filter(day), bit) end
  if seen == 3 then return 1 end
end
return 0
