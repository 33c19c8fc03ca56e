-- upload, owner -> the open batch that reads it, or false where none does: then it has expired, and its file is to be removed
local upload, owner = ARGV[1], ARGV[2]
local reader = reader_of(upload, owner)
if reader then return reader end
redis.call('HSET', key('upload:' .. upload), 'expires_at', 0)
redis.call('ZADD', key('uploads_due'), 0, upload)
return false
