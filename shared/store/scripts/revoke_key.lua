-- id, '1' where the last key that may administer others is to stay -> 1 | 0 where there is no such key | -1 where it is that one
local id, index = ARGV[1], key('keys')
local function is_admin(other) return redis.call('HGET', key('key:' .. other), 'admin') == '1' end
local function is_last()
  for _, other in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    if other ~= id and is_admin(other) then return false end
  end
  return true
end
if ARGV[2] == '1' and is_admin(id) and is_last() then return -1 end
redis.call('DEL', key('key:' .. id))
return redis.call('ZREM', index, id)
