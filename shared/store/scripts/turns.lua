-- needs: queues
-- look_every_ms, limit -> {id, class, ...}: jobs that waited for their turn and may start, since others of their key have ended and
-- nobody went on with the next: a worker that left or died, or a limit that was raised
local now, limit, found = now_ms(), tonumber(ARGV[2]), {}
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', key('holding'), '-inf', now, 'LIMIT', 0, limit)) do
  local held = key('held:' .. owner)
  local free = math.min(limit, limit_of(owner, 'max_running') - redis.call('SCARD', key('running_of:' .. owner)))
  if redis.call('ZCARD', held) == 0 then
    redis.call('ZREM', key('holding'), owner)
  else
    redis.call('ZADD', key('holding'), now + ARGV[1], owner)
    for _, id in ipairs(free > 0 and redis.call('ZRANGE', held, 0, free - 1) or {}) do
      local ok, class = try(class_of, id)
      if ok then
        found[#found + 1] = id
        found[#found + 1] = class
      else
        redis.call('ZREM', held, id)
      end
    end
  end
end
return found
