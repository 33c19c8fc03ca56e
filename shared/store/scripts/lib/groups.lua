-- needs: lists, deliver, minutes
-- A group is a name that its owner's jobs have in common. Beside its lists `group:<owner> <group>` has who hears of its end, and how
-- many jobs of it ended in this minute and the one before.
local function group_of(owner, group) return key('group:' .. owner .. ' ' .. group) end

-- Its facts are kept for as long as the job of it that is kept longest.
local function keep_group(facts, keep_ms)
  if redis.call('PTTL', facts) < keep_ms - now_ms() then redis.call('PEXPIREAT', facts, keep_ms) end
end

-- Whether something of it waits or runs; what is astray is let go.
local function is_open(whose)
  for _, id in ipairs(astray_in(list_of(whose))) do redis.call('ZREM', list_of(whose), id) end
  return redis.call('EXISTS', list_of(whose)) == 1
end

-- Nothing of it waits or runs: that is published once. job: the last one that ended
local function publish_end(owner, group, job, keep_ms)
  local whose, facts = owner .. ' ' .. group, group_of(owner, group)
  if is_open(whose) then return end
  local seen, counts = redis.call('HMGET', facts, 'webhook_url', 'webhook_target'), {}
  if not seen[1] then return end
  redis.call('HDEL', facts, 'webhook_url', 'webhook_target')
  for _, status in ipairs(ENDED) do counts[status] = redis.call('ZCARD', list_of(whose, status)) end
  deliver('evt_' .. string.sub(job, 5) .. '_group', seen[2], owner, job, keep_ms, now_ms(), 'group.ended', 'url', seen[1], 'payload',
    cjson.encode({id = group, counts = counts}))
end

local function end_in_group(owner, group, job, keep_ms)
  redis.call('ZREM', list_of(owner .. ' ' .. group), job)
  local facts = group_of(owner, group)
  local minute, ended, before = recent(unpack(redis.call('HMGET', facts, 'minute', 'ended', 'ended_before')))
  redis.call('HSET', facts, 'minute', minute, 'ended', ended + 1, 'ended_before', before)
  keep_group(facts, keep_ms)
  publish_end(owner, group, job, keep_ms)
end
