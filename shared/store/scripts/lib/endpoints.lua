-- How many of an owner's other endpoints are at this host.
local function n_endpoints_at(owner, host, but)
  local n = 0
  for _, id in ipairs(redis.call('ZRANGE', key('endpoints:' .. owner), 0, -1)) do
    local ok, seen = try(redis.call, 'HGET', key('endpoint:' .. id), 'host')
    if ok and seen == host and id ~= but then n = n + 1 end
  end
  return n
end
