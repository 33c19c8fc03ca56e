-- of each job how many facts follow, then these: id, owner, max_queued, idempotency key or '', body's hash, its ttl in s, share of
-- max_queued that stays free, of a batch's line: the batch and its lease's token, else '' and '', class, group or '', then the
-- record's fields, `model` and `start_deadline_s` first -> for each {'new', id, created_ms} | {'replay', id} | {'reused'}
-- | {'spent', what, how much a day has, s until the next} | {'limited', limit} | {'lost'} | {'full', queued, ended in the last one to two
-- minutes} | {'damaged'}
local function submit(id, name, max_queued, idem, body, idem_ttl_s, reserve, batch, token, class, group, ...)
  local owner, _, model, _, start_deadline_s = account(name), ...
  -- The client repeats a call whose reply was lost: the job may be there, and may even run by now.
  local created = redis.call('HGET', record(id), 'created_ms')
  if created then return {'new', id, tonumber(created)} end
  local slot = idem ~= '' and key('idem:' .. name .. ':' .. idem)
  if slot then
    local seen = redis.call('HMGET', slot, 'job', 'body')
    if seen[1] then return seen[2] == body and {'replay', seen[1]} or {'reused'} end
  end
  if batch ~= '' and not runs(batch, token) then return {'lost'} end
  local accepted = 'accepted ' .. class .. ' ' .. model
  look_at_totals('queued', accepted, vt_name(queue_name(class, model)))
  local own, all, limit, queued = room(owner, tonumber(max_queued), tonumber(reserve))
  -- A batch's line has had its place in the key's limits since it was taken.
  local is_promised = batch ~= '' and redis.call('SISMEMBER', key('promised:' .. name), id) == 1
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
  if is_promised then redis.call('SREM', key('promised:' .. name), id) end
  local job = {id = id, owner = name, class = class, model = model, created_ms = now}
  write(job, 'owner', name, 'created_ms', now, 'status', 'queued', 'attempt', 0, 'fence', 0, 'events', 1, 'hist', '1q0 ', ...)
  set_owner(owner, 'queued', owner.queued + 1)
  count_used(owner, model, {jobs = 1})
  set_total('queued', queued + 1)
  set_total(accepted, total(accepted) + 1)
  make_startable(job)
  publish_state(job, 1, 'job.queued', '')
  if group ~= '' then redis.call('ZADD', list_of(name .. ' ' .. group), now, id) end
  redis.call('ZADD', key('deadlines'), now + start_deadline_s * 1000, id)
  if slot then
    redis.call('HSET', slot, 'job', id, 'body', body)
    redis.call('EXPIRE', slot, idem_ttl_s)
  end
  return {'new', id, now}
end

local answers, n = {}, 1
while n < #ARGV do
  local last = n + ARGV[n]
  local is_sound, answer = try(submit, unpack(ARGV, n + 1, last))
  answers[#answers + 1] = is_sound and answer or {'damaged'}
  n = last + 1
end
return answers
