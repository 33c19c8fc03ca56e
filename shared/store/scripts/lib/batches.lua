-- A batch is run by whoever shows the token of its lease; one that has ended, or is another's by now, counts for nothing.
local function batch_key(id) return key('batch:' .. id) end
local function runs(id, token)
  local ends = redis.call('ZSCORE', key('batches_open'), id)
  return ends and tonumber(ends) > now_ms() and redis.call('HGET', batch_key(id), 'token') == token
end

-- The open batch of this owner that reads an upload, or nil.
local function reader_of(upload, owner)
  for _, id in ipairs(redis.call('SMEMBERS', key('batches_open:' .. owner))) do
    local is_sound, input = try(redis.call, 'HGET', batch_key(id), 'input_file_id')
    if is_sound and input == upload then return id end
  end
end
