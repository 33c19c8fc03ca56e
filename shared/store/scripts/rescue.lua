-- max_attempts, limit, lease_ms, the caller's model, the error JSON of worker_lost and of a damaged record, then the workers that are
-- known to be dead -> {how many jobs were looked at, ids set aside, attempts that ended so of jobs that are traced, as {id, worker,
-- fence, attempt, class, model, traceparent, began_ms, stage or ''}}: give back or end what dead workers left, and let jobs start whose
-- delay is over; not more than the limit, so that Redis answers others meanwhile
local max_attempts, limit, lease_ms, model = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local now, n_looked, lost = keep_time(lease_ms), 0, {}

local function note_lost(job)
  local since = string.match(job.hist or '', '.*%d+r(%d+)') or 0
  local facts = {job.id, job.worker, tonumber(job.fence), tonumber(job.attempt), job.class, job.model, job.traceparent, job.created_ms + since,
    job.stage or ''}
  lost[#lost + 1] = facts
end

local function take_back(worker, id)
  local job = read(id, TO_RETURN)
  if not job or job.status ~= 'running' or job.worker ~= worker then return false end
  if not job.owner then
    forget_held(worker, id) -- which still tells whose it was
    error('a field is missing')
  end
  if job.traceparent then note_lost(job) end
  if job.cancel then
    set(job, 'fence', job.fence + 1)
    finish(job, 'cancelled', 'error', job.cancel)
  elseif job.attempt + 0 >= max_attempts then
    set(job, 'fence', job.fence + 1)
    finish(job, 'failed', 'error', ARGV[5])
  else
    put_back(job)
    redis.call('HINCRBY', key('totals'), 'rescued', 1)
  end
  return true
end

local function bury(worker)
  local ids = redis.call('HKEYS', key('held:' .. worker))
  for _, id in ipairs(ids) do
    if n_looked == limit then return end
    n_looked = n_looked + 1
    local ok, is_done = try(take_back, worker, id)
    if not ok then set_aside(id, ARGV[6]) end
    if not is_done then forget_held(worker, id) end
  end
  redis.call('ZREM', key('workers'), worker)
  redis.call('ZREM', key('hungry:' .. model), worker)
  redis.call('DEL', key('orders:' .. worker), key('asked:' .. worker))
end

local function resume(id)
  redis.call('ZREM', key('delayed'), id)
  local job = read(id, TO_RETURN)
  if job and job.owner then redis.call('ZREM', waiting_of(job.owner), id) end
  if job and job.status == 'queued' then make_startable(job) end
end

-- `held:<worker>` may be damaged: then it is dropped, so that the jobs of other dead workers are rescued all the same.
local function bury_or_drop(worker)
  if try(bury, worker) then return end
  aside[#aside + 1] = 'held:' .. worker
  redis.call('DEL', key('held:' .. worker))
  bury(worker)
end

redis.call('ZREMRANGEBYSCORE', key('notices'), '-inf', now)
for n = 7, #ARGV do bury_or_drop(ARGV[n]) end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key('workers'), '-inf', now)) do
  if n_looked < limit then bury_or_drop(worker) end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', now, 'LIMIT', 0, limit - n_looked)) do
  n_looked = n_looked + 1
  if not try(resume, id) then set_aside(id, ARGV[6]) end
end
return {n_looked, aside, lost}
