-- needs: records, fair_queues, lists
-- Jobs that were in an engine when it died are suspects, in groups: whoever ends beside one that an engine survives is cleared, one that
-- takes an engine down is split. They stand in `suspects:<model>`, each with the number of its group, which grows; it is in the record, too.
-- Beside that they wait as delayed jobs do: whatever becomes of the list, they are put there anew when the delay is over.
-- `totals` says that there are some, so that a claim without any costs no more.
local RELIST_MS = 60000
local function suspects_of(model)
  local list = key('suspects:' .. model)
  local kind = redis.call('TYPE', list).ok
  if kind ~= 'zset' and kind ~= 'none' then
    aside[#aside + 1] = 'suspects:' .. model
    redis.call('DEL', list)
  end
  return list
end
local function suspects_flag(model) return 'suspects:' .. model end

-- The number of a new group: the time in us; of one that goes before all those, in ms.
local function new_group(model, is_first)
  local unit, most = is_first and 1 or 1000, is_first and '1e14' or '+inf'
  local last = redis.call('ZREVRANGEBYSCORE', suspects_of(model), most, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or 0
  return string.format('%.0f', math.max(now_ms() * unit, last + 1))
end

-- A queued job that is in no other list is a suspect, in its group, or in one of its own.
local function hold_suspect(job)
  if not string.match(job.suspect or '', '^%d+$') then
    set(job, 'suspect', new_group(job.model))
    save(job)
  end
  redis.call('ZADD', suspects_of(job.model), job.suspect, job.id)
  redis.call('ZADD', key('delayed'), now_ms() + RELIST_MS, job.id)
  redis.call('ZADD', waiting_of(job.owner), job.created_ms or 0, job.id)
  redis.call('HSET', key('totals'), suspects_flag(job.model), 1)
  ring(job.class, job.model)
end

-- The first group behind another one. What waits no more leaves the list. -> its number, the engines that its first job took down, or nil
local function next_group(model, after)
  local list = suspects_of(model)
  while true do
    local head = redis.call('ZRANGEBYSCORE', list, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not head[1] then return end
    local is_sound, seen = try(redis.call, 'HMGET', record(head[1]), 'status', 'engine_deaths')
    if is_sound and seen[1] == 'queued' then return head[2], tonumber(seen[2]) or 0 end
    redis.call('ZREM', list, head[1])
  end
end

-- Suspects run on an idle worker alone. Where all are busy, one of them, the minder, gets no new jobs until it is idle; where it is
-- silent for MIND_MS, another one becomes it.
local MIND_MS = 120000
local function minder_key(model) return key('minder:' .. model) end
local function mind(model, worker) redis.call('SET', minder_key(model), worker, 'PX', MIND_MS) end
local function is_minder(model, worker)
  if redis.call('SET', minder_key(model), worker, 'NX', 'PX', MIND_MS) then return true end
  return redis.pcall('GET', minder_key(model)) == worker
end
