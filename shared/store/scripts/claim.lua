-- worker, token, lease_ms, model, most jobs, most of them of the default class, most of the bulk class, the error JSON of
-- start_deadline and of a damaged record, most suspects (0 where something is in flight), 1 where its engine has answered something, else 0
-- -> {1 where there is more to look at, else 0, now_ms, ids set aside, jobs as {id, fence, attempt, request, run_timeout_s, created_ms,
-- engine_deaths, class, traceparent where it is traced}, 1 where the worker gets none until nothing is in flight, else 0}: start the next
-- jobs of this model, or a group of suspects. A call whose reply was lost is repeated with its token, and gives the same jobs.
local worker, token, lease_ms, model = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local most, now, given, n_taken, n_steps = tonumber(ARGV[5]), now_ms(), {}, 0, 0
local room_of = {interactive = most, default = tonumber(ARGV[6]), bulk = tonumber(ARGV[7])}
local held, asked = key('held:' .. worker), key('asked:' .. worker)

local function facts_of(job)
  return {job.id, tonumber(job.fence), tonumber(job.attempt), job.request, tonumber(job.run_timeout_s), job.created_ms,
    tonumber(job.engine_deaths) or 0, job.class, job.traceparent}
end

local before = redis.call('GET', asked) or ''
if string.sub(before, 1, #token + 1) == token .. ' ' then
  for id in string.gmatch(string.sub(before, #token + 2), '%S+') do
    local ok, job = try(read, id, TO_START)
    if ok and job and job.status == 'running' and string.match(redis.call('HGET', held, id) or '', '^%d+') == job.fence then given[#given + 1] = facts_of(job) end
  end
  return {1, now, {}, given, 0}
end

-- Of every eight jobs started, one is looked for among the default jobs first and one among the bulk jobs first, so that none starves.
local ORDERS = {[3] = {'default', 'interactive', 'bulk'}, [7] = {'bulk', 'interactive', 'default'}}
local TURN, TIMES = 'turn:' .. model, {}
for _, class in ipairs(CLASSES) do TIMES[class] = vt_name(queue_name(class, model)) end
look_at_totals('queued', suspects_flag(model), TURN, TIMES.interactive, TIMES.default, TIMES.bulk)
local turn, is_empty = totals[TURN], {}

-- Take the owner who is next off its list: whoever still has something waiting is put back. -> class, its name, its virtual time
local function next_owner()
  for _, class in ipairs(ORDERS[turn] or CLASSES) do
    if room_of[class] > 0 and not is_empty[class] then
      local head = redis.call('ZPOPMIN', ready_key(queue_name(class, model)))
      if head[1] then return class, head[1], tonumber(head[2]) end
      is_empty[class] = true
    end
  end
end

-- Start a job that was taken off its queue. -> whether it is this worker's now
local function start(job, owner, is_of_group)
  local is_sound = job.request and job.owner and job.created_ms and tonumber(job.fence) and tonumber(job.attempt)
    and tonumber(job.run_timeout_s) and tonumber(job.start_deadline_s)
  if not is_sound then error('a field is missing') end
  if not is_of_group and (tonumber(job.engine_deaths) or 0) > 0 then -- a worker of an earlier version handed it back
    hold_suspect(job)
    return false
  end
  if not job.started_ms then
    if now > job.created_ms + job.start_deadline_s * 1000 then
      finish(job, 'failed', 'error', ARGV[8])
      return false
    end
    redis.call('ZREM', key('deadlines'), job.id)
    job.started_ms = now
  end
  job.fence, job.attempt = string.format('%d', job.fence + 1), string.format('%d', job.attempt + 1)
  job.status, job.worker = 'running', worker
  write(job, 'status', 'running', 'fence', job.fence, 'attempt', job.attempt, 'started_ms', job.started_ms, 'stage', 'fetching',
    'worker', worker, emit(job, 'running', job.attempt))
  redis.call('HSET', held, job.id, job.fence .. ' ' .. owner.name)
  publish_state(job, job.events, 'job.running', 'evt_' .. string.sub(job.id, 5) .. '_' .. job.fence)
  given[#given + 1] = facts_of(job)
  return true
end

-- Put an owner back who still has something waiting. -> whether that is so
local function stay(owner, queue, at)
  local has_more = redis.call('EXISTS', waiting_key(queue, owner)) == 1
  if has_more then redis.call('ZADD', ready_key(queue), at, owner.name) end
  return has_more
end

-- Where its owner stands from now on: behind, by what this job costs it; or nowhere, if nothing waits or no more may run.
local function move_on(owner, class, queue, at, cost)
  local after = at + cost / math.max(owner.weight, 0.001)
  set_total(TIMES[class], math.max(totals[TIMES[class]], at))
  set_owner(owner, 'queued', math.max(0, owner.queued - 1), 'running', owner.running + 1)
  if may_run(owner) and stay(owner, queue, after) then return end
  set_owner(owner, 'vt:' .. queue, after)
  for each in pairs(may_run(owner) and {} or owner.vt) do leave(owner, each) end
end

-- Take a suspect off its list, and start it, though its key be at its limit: it ran before, and newer ones may have its turn.
local function start_suspect(id)
  redis.call('ZREM', suspects_of(model), id)
  local job = read(id, TO_START)
  if not job or job.status ~= 'queued' then return end
  local owner = job.owner and account(job.owner)
  if not start(job, owner, true) then return end
  leave_queue(job)
  set_owner(owner, 'running', owner.running + 1)
  for each in pairs(may_run(owner) and {} or owner.vt) do leave(owner, each) end
end

-- The next group. One that died alone stands in front, but is only for an engine that has answered something: then its next death
-- tells of the job. Where there is nothing else to do it goes anyway.
local function start_suspects(is_proven)
  local group, n_deaths = next_group(model, '-inf')
  while group and #given == 0 do
    local ids = redis.call('ZRANGEBYSCORE', suspects_of(model), group, group, 'LIMIT', 0, ARGV[10])
    for _, id in ipairs((is_proven or n_deaths < 2) and ids or {}) do
      if not try(start_suspect, id) then set_aside(id, ARGV[9]) end
    end
    group, n_deaths = next_group(model, '(' .. group)
  end
  if #given > 0 then mind(model, worker) end
end

local function has_suspects()
  if totals[suspects_flag(model)] == 0 then return false end
  if next_group(model, '-inf') then return true end
  redis.call('HDEL', key('totals'), suspects_flag(model))
  return false
end

local function step(class, name, at)
  local owner, queue = account(name), queue_name(class, model)
  if not may_run(owner) then return set_owner(owner, 'vt:' .. queue, at) end
  local id = redis.call('ZPOPMIN', waiting_key(queue, owner))[1]
  local ok, job = try(read, id or '', TO_START)
  local is_mine = false
  if ok and job and MOVES[job.status] and job.status ~= 'queued' then
    is_mine = false -- it has ended, and was counted
  elseif ok and job and job.status == 'queued' then
    local sound, given_out = try(start, job, owner)
    if not sound then
      if not job.owner then set_owner(owner, 'queued', math.max(0, owner.queued - 1)) end
      set_aside(id, ARGV[9])
    end
    is_mine = sound and given_out
  elseif id then
    count_off(owner) -- nothing is left that could be started
    set_aside(id, ARGV[9])
  end
  if is_mine then
    n_taken, turn, room_of[class] = n_taken + 1, (turn + 1) % 8, room_of[class] - 1
    move_on(owner, class, queue, at, tonumber(job.cost) or 1)
  elseif not stay(owner, queue, at) then
    set_owner(owner, 'vt:' .. queue, at)
  end
end

local has_some, may_take = has_suspects(), tonumber(ARGV[10]) > 0
if has_some and may_take then start_suspects(ARGV[11] == '1') end
local is_group = #given > 0
if has_some and not may_take and is_minder(model, worker) then
  redis.call('ZREM', hungry_key(model), worker)
  return {0, now, aside, {}, 1}
end

local class, name, at
while not is_group and #given < most and n_steps < 2 * most + 16 do
  class, name, at = next_owner()
  if not class then break end
  n_steps = n_steps + 1
  if not try(step, class, name, at) then -- its account or its queue is damaged, and it must not stand before others
    redis.call('ZREM', ready_key(queue_name(class, model)), name)
    aside[#aside + 1] = 'owner:' .. name
  end
end

if has_some and may_take and #given == 0 then
  start_suspects(true)
  is_group = #given > 0
end

if #given > 0 then
  local ids = {}
  for n, facts in ipairs(given) do ids[n] = facts[1] end
  redis.call('SET', asked, token .. ' ' .. table.concat(ids, ' '), 'PX', 120000)
  set_total('queued', totals.queued - n_taken)
  set_total(TURN, turn)
  redis.call('ZADD', key('workers'), now + lease_ms, worker) -- jobs without a lease would never be rescued
end

-- A worker with places left is hungry, and will be rung for.
local is_hungry, hungry = most > #given and not class and not is_group, hungry_key(model)
if is_hungry then redis.call('ZADD', hungry, room_of.default > 0 and room_of.bulk > 0 and now or -now, worker) end
local has_hungry = is_hungry or redis.call('EXISTS', hungry) == 1
if has_hungry and not is_hungry then redis.call('ZREM', hungry, worker) end
-- Work that this call leaves is for others: it may have come for a bell that was theirs.
for _, name in ipairs(has_hungry and n_hungry('', model) > 0 and CLASSES or {}) do
  if redis.call('EXISTS', ready_key(queue_name(name, model))) == 1 then
    ring(name, model)
    break
  end
end
return {(is_group or class and #given < most) and 1 or 0, now, aside, given, 0}
