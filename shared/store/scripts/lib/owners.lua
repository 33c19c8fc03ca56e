-- An owner, read once: the limits of its key (0: none), what it has waiting and running, where it stands in each queue while it is in
-- no `ready`, and who reads its feed.
local owners = {}
local function account(name)
  local owner = owners[name]
  if owner then return owner end
  owner = {name = name, vt = {}, queued = 0, running = 0, max_queued = 0, max_running = 0, endpoints = 0, feed_until_ms = 0, weight = 1}
  local seen = redis.call('HGETALL', key('owner:' .. name))
  for n = 1, #seen, 2 do
    local queue, value = string.match(seen[n], '^vt:(.*)$'), tonumber(seen[n + 1])
    if queue then owner.vt[queue] = value or 0 elseif value then owner[seen[n]] = value end
  end
  owners[name] = owner
  return owner
end

-- Write numbers of an owner down, each a name and a value.
local function set_owner(owner, ...)
  local facts = {...}
  for n = 1, #facts, 2 do
    local queue = string.match(facts[n], '^vt:(.*)$')
    if queue then owner.vt[queue] = facts[n + 1] else owner[facts[n]] = facts[n + 1] end
  end
  redis.call('HSET', key('owner:' .. owner.name), ...)
end
