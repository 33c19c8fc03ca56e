-- queues, each a class and a model -> for each, how long its oldest job has waited, ms, or -1 where none may start; then how late the
-- next webhook is, ms, and the time, ms. Of more owners than MOST only the first are looked at, so that a scrape stays cheap.
local MOST, found, now = 256, {}, now_ms()
for n, queue in ipairs(ARGV) do
  local oldest
  for _, name in ipairs(redis.call('ZRANGE', ready_key(queue), 0, MOST - 1)) do
    local head = redis.call('ZRANGE', waiting_key(queue, {name = name}), 0, 0, 'WITHSCORES')
    if head[2] then oldest = math.min(oldest or now, tonumber(head[2])) end
  end
  found[n] = oldest and now - oldest or -1
end
local due = redis.call('ZRANGE', key('due'), 0, 0, 'WITHSCORES')
found[#found + 1] = due[2] and math.max(0, now - tonumber(due[2])) or 0
found[#found + 1] = now
return found
