-- needs: batches, jobs
-- id, owner, max_queued, ring_after_ms, idempotency key or '', body's hash, its ttl in s, list of doorbells, doorbell or '',
-- share of max_queued that stays free, of a batch's line: the batch and its lease's token, else '' and '', then the record's
-- fields -> {'new', id, created_ms} | {'replay', id} | {'reused'} | {'limited', limit} | {'lost'}
-- | {'full', queued, ended in the last one to two minutes}
local id, owner, max_queued, ring_after_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local idem, body = ARGV[5], ARGV[6]
-- The client repeats a call whose reply was lost: the job may be there, and may even run by now.
local created = redis.call('HGET', record(id), 'created_ms')
if created then return {'new', id, tonumber(created)} end
if idem ~= '' then
  local seen = redis.call('HMGET', key('idem:' .. owner .. ':' .. idem), 'job', 'body')
  if seen[1] then
    if seen[2] == body then return {'replay', seen[1]} end
    return {'reused'}
  end
end
if ARGV[11] ~= '' and not runs(ARGV[11], ARGV[12]) then return {'lost'} end
local own, all, limit, queued = room(owner, max_queued, tonumber(ARGV[10]))
-- A batch's line has had its place in the key's limit since it was taken.
if own <= 0 and redis.call('SISMEMBER', key('queued_of:' .. owner), id) == 0 then return {'limited', limit} end
local now = now_ms()
if all <= 0 then
  local minute = math.floor(now / 60000)
  local ended = redis.call('MGET', key('ended:' .. minute), key('ended:' .. minute - 1))
  return {'full', queued, (ended[1] or 0) + (ended[2] or 0)}
end
redis.call('HSET', record(id), 'owner', owner, 'created_ms', now, 'attempt', 0, 'fence', 0, unpack(ARGV, 13))
queue(id, now + ring_after_ms, 0)
redis.call('ZADD', key('jobs:' .. owner), now, id)
redis.call('ZADD', key('deadlines'), now + redis.call('HGET', record(id), 'start_deadline_s') * 1000, id)
if idem ~= '' then
  local slot = key('idem:' .. owner .. ':' .. idem)
  redis.call('HSET', slot, 'job', id, 'body', body)
  redis.call('EXPIRE', slot, ARGV[7])
end
-- The record stands: a doorbell that cannot be left, whatever the reason, is rung by rescue.
if ARGV[9] ~= '' then redis.pcall('LPUSH', ARGV[8], ARGV[9]) end
return {'new', id, now}
