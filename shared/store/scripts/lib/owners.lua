-- An owner, read once: the limits of its key (0: none), what it has waiting and running, where it stands in each queue while it is in
-- no `ready`, what it used on the day that it was last active on, and who reads its feed.
local function know(owner, name, value)
  if owner[name] then
    owner[name] = tonumber(value) or owner[name]
  elseif string.sub(name, 1, 3) == 'vt:' then
    owner.vt[string.sub(name, 4)] = tonumber(value) or 0
  elseif string.sub(name, 1, 5) == 'used:' then
    owner.used[string.sub(name, 6)] = value
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
local function set_owner(owner, name, value, ...)
  know(owner, name, value)
  owner.changes[name] = value
  if ... then return set_owner(owner, ...) end
end
local function save_owners()
  for name, owner in pairs(owners) do
    local facts, n = {}, 0
    for fact, value in pairs(owner.changes) do
      facts[n + 1], facts[n + 2] = fact, type(value) == 'table' and string.format('%d %d %d %d %d %d %d', unpack(value)) or value
      n = n + 2
    end
    if n > 0 then redis.call('HSET', key('owner:' .. name), unpack(facts)) end
  end
end

-- How many lines of its batches are taken whose jobs are not there yet.
local function n_promised(owner) return redis.call('SCARD', key('promised:' .. owner.name)) end
