-- id, '1' where the last key that may administer others is to stay -> 1 | 0 where there is no such key | -1 where it is that one;
-- its account and what it used are kept for as long as what others used
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
if redis.call('ZREM', index, id) == 0 then return 0 end
redis.call('ZADD', key('revoked'), today(), id)
redis.call('ZREMRANGEBYSCORE', key('revoked'), '-inf', '(' .. today() - USAGE_DAYS)
redis.call('PEXPIRE', key('owner:' .. id), (USAGE_DAYS + 1) * DAY_MS)
return 1
