-- id, owner, max_queued, idempotency key or '', body's hash, its ttl in s, share of max_queued that stays free, of a batch's line: the
-- batch and its lease's token, else '' and '', then the record's fields -> {'new', id, created_ms} | {'replay', id} | {'reused'}
-- | {'spent', what, how much a day has, s until the next} | {'limited', limit} | {'lost'} | {'full', queued, ended in the last one to two minutes}
local id, owner, max_queued, idem, body, batch = ARGV[1], account(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[8]
-- The client repeats a call whose reply was lost: the job may be there, and may even run by now.
local created = redis.call('HGET', record(id), 'created_ms')
if created then return {'new', id, tonumber(created)} end
if idem ~= '' then
  local seen = redis.call('HMGET', key('idem:' .. owner.name .. ':' .. idem), 'job', 'body')
  if seen[1] then
    if seen[2] == body then return {'replay', seen[1]} end
    return {'reused'}
  end
end
local given = {}
if batch ~= '' and not runs(batch, ARGV[9]) then return {'lost'} end
for n = 10, #ARGV, 2 do given[ARGV[n]] = ARGV[n + 1] end
local accepted = 'accepted ' .. given.class .. ' ' .. given.model
look_at_totals('queued', accepted, 'vt:' .. queue_name(given.class, given.model))
local own, all, limit, queued = room(owner, max_queued, tonumber(ARGV[7]))
-- A batch's line has had its place in the key's limits since it was taken.
local is_promised = batch ~= '' and redis.call('SISMEMBER', key('promised:' .. owner.name), id) == 1
if not is_promised then
  local what, most = spent(owner)
  if what then return {'spent', what, most, day_left_s()} end
end
if own <= 0 and not is_promised then return {'limited', limit} end
local now = now_ms()
if all <= 0 then
  local _, ended, before = recent(unpack(redis.call('HMGET', key('totals'), 'minute', 'ended', 'ended_before')))
  return {'full', queued, ended + before}
end
if is_promised then redis.call('SREM', key('promised:' .. owner.name), id) end
local job = {id = id, changed = {}, events = 0}
set(job, 'owner', owner.name)
set(job, 'created_ms', string.format('%d', now))
set(job, 'attempt', 0)
set(job, 'fence', 0)
for n = 10, #ARGV, 2 do set(job, ARGV[n], ARGV[n + 1]) end
enqueue(job, nil, accepted)
if given.group then redis.call('ZADD', list_of(owner.name .. ' ' .. given.group), now, id) end
redis.call('ZADD', key('deadlines'), now + job.start_deadline_s * 1000, id)
if idem ~= '' then
  local slot = key('idem:' .. owner.name .. ':' .. idem)
  redis.call('HSET', slot, 'job', id, 'body', body)
  redis.call('EXPIRE', slot, ARGV[6])
end
return {'new', id, now}
