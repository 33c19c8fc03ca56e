-- needs: owners
-- What an owner uses is counted by the day, UTC, and by model: in its account as `used:<model>`, where each move of a job writes anyway,
-- and from the next day on, for USAGE_DAYS, in `usage:<owner>:<day>`. A text has all numbers of a model: a field for each costs more.
local DAY_MS = 86400000
local function usage_key(owner, day) return key(string.format('usage:%s:%d', owner.name, day)) end
local function today() return math.floor(now_ms() / DAY_MS) end

-- -> numbers, some maybe as texts
local function numbers_of(used)
  if type(used) == 'table' then return used end
  local found = {string.match(used or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')}
  return found[1] and found or {0, 0, 0, 0, 0, 0, 0}
end

-- What it used on a day: texts, by model.
local function used_on(owner, day)
  if owner.day == day then return owner.used end
  local used, seen = {}, redis.call('HGETALL', usage_key(owner, day))
  for n = 1, #seen, 2 do used[seen[n]] = seen[n + 1] end
  return used
end
local function used_today(owner, what)
  local sum = 0
  for _, used in pairs(used_on(owner, today())) do sum = sum + numbers_of(used)[PLACES[what]] end
  return sum
end

-- The account's counts are those of today from here on. Where the clock was set back, they go on from what that day had.
local function begin_day(owner)
  local old, new = {}, {}
  if owner.day == today() then return end
  for model, text in pairs(owner.used) do
    redis.call('HDEL', key('owner:' .. owner.name), 'used:' .. model)
    old[#old + 1], old[#old + 2] = model, text
  end
  if old[1] then
    redis.call('HSET', usage_key(owner, owner.day), unpack(old))
    redis.call('EXPIREAT', usage_key(owner, owner.day), (owner.day + USAGE_DAYS + 1) * DAY_MS / 1000)
  end
  owner.used = used_on(owner, today())
  for model, text in pairs(owner.used) do new[#new + 1], new[#new + 2] = 'used:' .. model, text end
  set_owner(owner, 'day', today(), unpack(new))
end

-- Count what a job uses, by what that is. The numbers become a text where the call ends, however many jobs it counted.
local function count_used(owner, model, uses)
  begin_day(owner)
  local numbers = numbers_of(owner.used[model])
  for what, n in pairs(uses) do numbers[PLACES[what]] = numbers[PLACES[what]] + n end
  owner.used[model], owner.changes['used:' .. model] = numbers, numbers
end

-- How much of its quotas an owner has left today; nil where it has none. Lines of batches have a place before their jobs are there.
local function jobs_left(owner)
  if owner.max_jobs_day > 0 then return math.max(0, owner.max_jobs_day - used_today(owner, 'jobs') - n_promised(owner)) end
end
local function vision_tokens_left(owner)
  if owner.max_vision_tokens_day > 0 then return math.max(0, owner.max_vision_tokens_day - used_today(owner, 'vision_tokens')) end
end
local function day_left_s() return math.ceil((DAY_MS - now_ms() % DAY_MS) / 1000) end

-- Which quota is used up, and what it is; nil where none is.
local function spent(owner)
  if jobs_left(owner) == 0 then return 'jobs', owner.max_jobs_day end
  if vision_tokens_left(owner) == 0 then return 'vision tokens', owner.max_vision_tokens_day end
end
