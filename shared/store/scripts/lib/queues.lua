-- The queued jobs of a class; those of the default class have the plain name.
local function lane(class) return key(class == 'default' and 'queued' or 'queued:' .. class) end
local function class_of(id)
  local found = redis.call('HGET', record(id), 'class')
  for _, class in ipairs(CLASSES) do if class == found then return class end end
  return 'default'
end

-- A job that a worker of another model was rung for waits here for one of its own, without a doorbell: their rescues look.
local function parked(class, model) return key('parked:' .. class .. ':' .. model) end
local function park(id, class, model, look_again_at)
  redis.call('ZADD', parked(class, model), 'NX', now_ms(), id)
  redis.call('ZADD', lane(class), look_again_at, id)
end
local function unpark(id)
  local model = redis.call('HGET', record(id), 'model')
  if model then redis.call('ZREM', parked(class_of(id), model), id) end
end

-- What an owner has waiting and running, for the limits of its key. A job that finds as many of its key running as may run
-- waits for its turn in `held:<owner>`, and its place in the lane is +inf: no doorbell is under way for it.
local function book(id, from, to)
  local owner = redis.call('HGET', record(id), 'owner')
  if not owner then return end
  if from == 'queued' then redis.call('ZREM', key('held:' .. owner), id) end
  if from then redis.call('SREM', key(from .. '_of:' .. owner), id) end
  if to then redis.call('SADD', key(to .. '_of:' .. owner), id) end
end
local function limit_of(owner, name)
  local limit = tonumber(redis.call('HGET', key('key:' .. owner), name) or 0)
  return limit > 0 and limit or math.huge
end

-- One of this owner's jobs that ran runs no more, and nobody who could start the next is known: `turns` looks at once.
local function free_turn(owner)
  if owner then redis.call('ZADD', key('holding'), 'XX', 0, owner) end
end

-- How many more jobs may wait. reserve: the share of both limits that the caller leaves free, but never the last place.
-- -> by the limit of the owner's key, by that of the service, the key's limit, how many wait in all
local function room(owner, max_queued, reserve)
  local function most(limit) return reserve > 0 and math.max(1, math.floor(limit * (1 - reserve))) or limit end
  local limit, queued = limit_of(owner, 'max_queued'), 0
  for _, class in ipairs(CLASSES) do queued = queued + redis.call('ZCARD', lane(class)) end
  return most(limit) - redis.call('SCARD', key('queued_of:' .. owner)), most(max_queued) - queued, limit, queued
end
