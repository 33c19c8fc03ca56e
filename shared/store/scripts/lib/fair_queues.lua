-- needs: owners
-- Weighted fair queueing by virtual time. A queue is a class and a model. An owner's jobs wait in `q:<queue>:<owner>`, the oldest
-- first. The owners that have some and may run stand in `ready:<queue>` by virtual time, which a start moves on by its tokens over the
-- owner's weight: the least goes first, so none waits longer than for one job of each other. Who may not run is not in it, costs
-- nothing, and hides nobody.
local function queue_name(class, model) return class .. ':' .. model end
local function waiting_key(queue, owner) return key('q:' .. queue .. ':' .. owner.name) end
local function ready_key(queue) return key('ready:' .. queue) end
local function may_run(owner) return owner.max_running <= 0 or owner.running < owner.max_running end

-- What concerns all is read once, those names that a call is sure to need in one go, and written once, where the call ends.
local function look_at_totals(...)
  if totals[...] then return end -- the first of them
  local seen = redis.call('HMGET', key('totals'), ...)
  for n, name in ipairs({...}) do totals[name] = tonumber(seen[n] or 0) end
end
local function total(name)
  look_at_totals(name)
  return totals[name]
end
local function set_total(name, value) totals[name], new_totals[name] = value, value end

-- The virtual time of a queue: that of its last start. Nobody gathers a claim on the future by having nothing to do.
local function vt_name(queue) return 'vt:' .. queue end
local function enter(owner, queue)
  redis.call('ZADD', ready_key(queue), 'NX', math.max(owner.vt[queue] or 0, total(vt_name(queue))), owner.name)
  if not owner.vt[queue] then set_owner(owner, 'vt:' .. queue, 0) end
end

-- It has nothing waiting here, or may not run: its place is remembered.
local function leave(owner, queue)
  local at = redis.call('ZSCORE', ready_key(queue), owner.name)
  if at then
    redis.call('ZREM', ready_key(queue), owner.name)
    set_owner(owner, 'vt:' .. queue, tonumber(at))
  end
end

-- A worker whose last claim gave fewer jobs than it has places for is in `hungry`, with the time of that claim; with the time below
-- zero where it takes some classes only. It asks each second: who is silent for HUNGRY_MS counts no more.
local HUNGRY_MS = 3000
local function hungry_key(model) return key('hungry:' .. model) end
local function n_hungry(class, model)
  if redis.call('EXISTS', hungry_key(model)) == 0 then return 0 end
  local since = now_ms() - HUNGRY_MS
  local n = redis.call('ZCOUNT', hungry_key(model), since, '+inf')
  return class == 'bulk' and n or n + redis.call('ZCOUNT', hungry_key(model), '-inf', -since)
end

-- There is work that may start: ring, as long as fewer bells lie than workers are hungry. A bell is a message for their consumers,
-- whose text workers leave here; one that cannot be left, whatever the reason, costs a second.
local function ring(class, model)
  local n = n_hungry(class, model)
  local bells = key('bells:jobs.' .. model)
  local n_bells = n > 0 and redis.pcall('LLEN', bells)
  local bell = type(n_bells) == 'number' and n_bells < n and redis.call('GET', key('bell:' .. model))
  if bell then redis.pcall('LPUSH', bells, bell) end
end

-- It may run more than before: whatever of its jobs waited for that is there, and rung for.
local function enter_all(owner)
  for queue in pairs(may_run(owner) and owner.vt or {}) do
    if redis.call('EXISTS', waiting_key(queue, owner)) == 1 then
      enter(owner, queue)
      ring(string.match(queue, '^(%a+):(.*)$'))
    end
  end
end

-- One of an owner's jobs ran, and runs no more: others may start that waited for their turn.
local function free_turn(owner)
  local was_full = not may_run(owner)
  set_owner(owner, 'running', math.max(0, owner.running - 1))
  if was_full then enter_all(owner) end
end

-- How many more jobs may wait. reserve: the share of both limits that the caller leaves free, but never the last place.
-- -> by the limit of the owner's key, by that of the service, the key's limit, how many wait in all
local function room(owner, max_queued, reserve)
  local function most(limit) return reserve > 0 and math.max(1, math.floor(limit * (1 - reserve))) or limit end
  local limit = owner.max_queued > 0 and owner.max_queued or math.huge
  local queued = total('queued')
  -- Lines of batches have a place from when they are taken, before their jobs are there.
  local promised = limit < math.huge and n_promised(owner) or 0
  return most(limit) - owner.queued - promised, most(max_queued) - queued, limit, queued
end
