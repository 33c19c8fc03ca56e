-- index, id of the entry before or '', its score or '' where it may be gone and nobody knows, ms in one unit of the scores,
-- limit, 'newest' | 'oldest' first -> {id, score, ...} | nil where the entry before is gone and its place is not known
local index, before, at, limit, newest = key(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[6] == 'newest'
local start = 0
if before ~= '' then
  local rank = redis.call(newest and 'ZREVRANK' or 'ZRANK', index, before)
  if rank then
    start = rank + 1
  elseif not at or at * ARGV[4] > now_ms() + 60000 then -- an id from the future has no place; the gateways' clocks differ a bit
    return nil
  else
    start = newest and redis.call('ZCOUNT', index, '(' .. at, '+inf') or redis.call('ZCOUNT', index, '-inf', '(' .. at)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, at, at)) do
      if (newest and id > before) or (not newest and id < before) then start = start + 1 end
    end
  end
end
return redis.call(newest and 'ZREVRANGE' or 'ZRANGE', index, start, start + limit - 1, 'WITHSCORES')
