-- needs: batches
-- limit, lease_ms -> {id, owner or '', ...} of uploads whose files nobody needs any more. For the lease they are the caller's,
-- who removes the files and then forgets the uploads; one who dies before is followed by another.
local now, due = now_ms(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('uploads_due'), '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local owner = redis.call('HGET', key('upload:' .. id), 'owner') or ''
  redis.call('ZADD', key('uploads_due'), now + ARGV[2], id)
  if not reader_of(id, owner) then
    due[#due + 1] = id
    due[#due + 1] = owner
  end
end
return due
