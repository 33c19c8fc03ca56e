-- owner, group, url, its target -> 1 | 0 where there is no such group: who hears when nothing of it waits or runs, which may be now.
-- Without an url: whoever is to hear of it does, if it is so by now
local owner, group = ARGV[1], ARGV[2]
local whose, last = owner .. ' ' .. group, nil
for _, status in ipairs(ENDED) do last = last or redis.call('ZREVRANGE', list_of(whose, status), 0, 0)[1] end
if not last and not is_open(whose) then return 0 end
if ARGV[3] ~= '' then redis.call('HSET', group_of(owner, group), 'webhook_url', ARGV[3], 'webhook_target', ARGV[4]) end
local keep_ms = now_ms() + (last and math.max(1, redis.call('PTTL', record(last))) or KEEP_MS)
keep_group(group_of(owner, group), keep_ms)
if last then publish_end(owner, group, last, keep_ms) end
return 1
