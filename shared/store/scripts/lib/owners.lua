-- An owner, read once: the limits of its key (0: none), what it has waiting and running, where it stands in each queue while it is in
-- no `ready`, what it used on the day that it was last active on, and who reads its feed.
local function know(owner, name, value)
  local colon = string.find(name, ':', 1, true)
  if not colon then
    owner[name] = tonumber(value) or owner[name]
  elseif colon == 3 then -- vt:<queue>
    owner.vt[string.sub(name, 4)] = tonumber(value) or 0
  else -- used:<model>
    owner.used[string.sub(name, colon + 1)] = value
  end
end
local function account(name)
  local owner = owners[name]
  if owner then return owner end
  owner = {
    name = name, vt = {}, used = {}, queued = 0, running = 0, max_queued = 0, max_running = 0, max_jobs_day = 0,
    max_vision_tokens_day = 0, day = 0, endpoints = 0, feed_until_ms = 0, weight = 1, changes = {},
  }
  local seen = redis.call('HGETALL', key('owner:' .. name))
  for n = 1, #seen, 2 do know(owner, seen[n], seen[n + 1]) end
  owners[name] = owner
  return owner
end

-- Change facts of an owner, each a name and a value. They are written where the call ends: once, however many jobs it moved.
local function set_owner(owner, ...)
  local facts = {...}
  for n = 1, #facts, 2 do
    know(owner, facts[n], facts[n + 1])
    owner.changes[facts[n]] = facts[n + 1]
  end
end
local function save_owners()
  for name, owner in pairs(owners) do
    local facts = {}
    for fact, value in pairs(owner.changes) do facts[#facts + 1], facts[#facts + 2] = fact, value end
    if facts[1] then redis.call('HSET', key('owner:' .. name), unpack(facts)) end
  end
end

-- How many lines of its batches are taken whose jobs are not there yet.
local function n_promised(owner) return redis.call('SCARD', key('promised:' .. owner.name)) end
