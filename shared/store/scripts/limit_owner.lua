-- owner, then limits and their values, from now on -> whether it is a key; where more may run than so far, they are rung for
local owner, shown = account(ARGV[1]), key('key:' .. ARGV[1])
local is_key = redis.call('EXISTS', shown)
for n = 2, #ARGV, 2 do
  set_owner(owner, ARGV[n], tonumber(ARGV[n + 1]))
  if is_key == 1 then redis.call('HSET', shown, ARGV[n], ARGV[n + 1]) end
end
enter_all(owner)
return is_key
