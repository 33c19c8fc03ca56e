-- limit -> ids and owners, in turn, of open batches that nobody runs: first those that somebody began, then the oldest
local free = {}
for _, range in ipairs({{'(0', now_ms()}, {0, 0}}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('batches_open'), range[1], range[2], 'LIMIT', 0, ARGV[1])) do
    local is_sound, owner = try(redis.call, 'HGET', batch_key(id), 'owner')
    if is_sound then
      free[#free + 1] = id
      free[#free + 1] = owner or ''
    else -- nobody could run it, and it must not stand before others
      redis.call('ZREM', key('batches_open'), id)
    end
  end
end
return free
