-- limit, lease_ms -> {id, owner or '', ...} of uploads whose files nobody needs any more. For the lease they are the caller's,
-- who removes the files and then forgets the uploads; one who dies before is followed by another.
local now, due = now_ms(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('uploads_due'), '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local is_sound, owner = try(redis.call, 'HGET', key('upload:' .. id), 'owner')
  owner = is_sound and owner or '' -- what tells of nobody is nobody's
  redis.call('ZADD', key('uploads_due'), now + ARGV[2], id)
  if not reader_of(id, owner) then
    due[#due + 1] = id
    due[#due + 1] = owner
  end
end
return due
