-- batch, owner, its input's upload, max_open, created_ms by the id, window_s, fields -> 'made' | 'full' | 'gone': no such upload
local id, owner, upload, max_open, window_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6])
if redis.call('EXISTS', batch_key(id)) == 1 then return 'made' end -- a call repeated, whose reply was lost
local input = redis.call('HMGET', key('upload:' .. upload), 'owner', 'expires_at')
if input[1] ~= owner or input[2] * 1000 <= now_ms() then return 'gone' end
local mine, open = key('batches:' .. owner), key('batches_open:' .. owner)
if redis.call('SCARD', open) >= max_open then return 'full' end
local now = math.floor(now_ms() / 1000)
redis.call('HSET', batch_key(id), 'owner', owner, 'status', 'validating', 'input_file_id', upload, 'created_at', now, 'expires_at',
  now + window_s, unpack(ARGV, 7))
for _, old in ipairs(redis.call('ZRANGE', mine, 0, 9)) do -- the list shrinks by more than it grows
  if redis.call('EXISTS', batch_key(old)) == 0 then redis.call('ZREM', mine, old) end
end
redis.call('ZADD', mine, ARGV[5], id)
redis.call('PERSIST', mine)
redis.call('SADD', open, id)
redis.call('ZADD', key('batches_open'), 0, id)
return 'made'
