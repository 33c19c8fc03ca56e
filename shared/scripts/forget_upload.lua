-- upload, owner -> the open batch that reads it, or false where none does: then it is forgotten
local upload, owner = ARGV[1], ARGV[2]
for _, id in ipairs(redis.call('SMEMBERS', key('batches_open:' .. owner))) do
  if redis.call('HGET', batch_key(id), 'input_file_id') == upload then return id end
end
redis.call('DEL', key('upload:' .. upload))
redis.call('ZREM', key('uploads:' .. owner), upload)
return false
