-- sender, token, most, most to one target, lease_ms, open_after, then targets to which this sender has deliveries under way, and
-- how many -> {now_ms, 1 | 0: it could not take all that is due, ids set aside, deliveries as {id, attempt, target, job, type,
-- at_ms, url, payload, failures, failing_since_ms}}: take due deliveries; another sender may after lease_ms.
-- A target that failed open_after times in a row gets one at a time. A call whose reply was lost is repeated with its token, and takes the
-- same.
local mine, token, free, most = key('took:' .. ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local lease_ms, open_after, now = tonumber(ARGV[5]), tonumber(ARGV[6]), now_ms()
local MOST_TARGETS = 64 -- looked at by one script, beside those that have no room here
local odd, taken, ids, left, n_full, under_way = {}, {}, {}, 0, 0, {}
for n = 7, #ARGV, 2 do
  under_way[ARGV[n]] = tonumber(ARGV[n + 1])
  if under_way[ARGV[n]] >= most then n_full = n_full + 1 end
end

local function circuit_of(target)
  local seen = redis.call('HMGET', key('target:' .. target), 'failures', 'failing_since_ms', 'paused_until_ms')
  return {failures = tonumber(seen[1] or 0), since = tonumber(seen[2] or 0), paused = tonumber(seen[3] or 0)}
end

local FACTS = {'attempt', 'target', 'job', 'type', 'at_ms', 'url', 'payload'}
local function read(delivery, circuit)
  local facts = redis.call('HMGET', key('delivery:' .. delivery), unpack(FACTS))
  local attempt, at_ms = tonumber(facts[1]), tonumber(facts[5])
  if not (attempt and at_ms and facts[2] and facts[4]) then error('a field is missing') end
  circuit = circuit or circuit_of(facts[2])
  local job = facts[3] or 'job_' .. string.match(delivery, '^evt_([^_:]+)')
  return {delivery, attempt, facts[2], job, facts[4], at_ms, facts[6] or '', facts[7] or '', circuit.failures, circuit.since}
end

local function take(delivery, circuit)
  local facts = read(delivery, circuit)
  facts[2] = facts[2] + 1
  redis.call('HSET', key('delivery:' .. delivery), 'attempt', facts[2], 'token', token)
  return facts
end

-- Look at a target: take what may be taken of what is due, and say when to look again.
local function look(target)
  local circuit, due, leased = circuit_of(target), key('due:' .. target), {}
  local n_may, again = math.min(free - #taken, most - (under_way[target] or 0)), now + lease_ms
  if circuit.paused > now then return redis.call('ZADD', key('due'), circuit.paused, target) end
  local is_trial = circuit.failures >= open_after
  if is_trial then n_may = math.min(n_may, 1) end
  local found, n = redis.call('ZRANGE', due, 0, n_may, 'WITHSCORES'), 0
  for i = 1, #found, 2 do
    local delivery, at = found[i], tonumber(found[i + 1])
    if at > now or n == n_may then -- the first that is not taken
      if not is_trial then again = math.min(again, at) end
      break
    end
    local sound, facts = try(take, delivery, circuit)
    n = n + 1
    if sound then
      taken[#taken + 1], ids[#ids + 1] = facts, delivery
      leased[#leased + 1], leased[#leased + 2] = now + lease_ms, delivery
    else
      odd[#odd + 1] = delivery
      take_off(target, {delivery})
      if redis.call('TYPE', key('delivery:' .. delivery)).ok == 'hash' then redis.call('DEL', key('delivery:' .. delivery)) end
    end
  end
  if not leased[1] then return schedule(target) end
  redis.call('ZADD', due, unpack(leased))
  redis.call('ZADD', key('due'), again, target)
  if is_trial then redis.call('HSET', key('target:' .. target), 'paused_until_ms', again) end
  if again <= now then left = 1 end
end

local before = redis.call('GET', mine)
if before and string.match(before, '^%S+') == token then
  for delivery in string.gmatch(before, ' (%S+)') do
    local sound, facts = try(read, delivery)
    if sound then taken[#taken + 1] = facts end
  end
  return {now, 1, odd, taken}
end
local targets = redis.call('ZRANGEBYSCORE', key('due'), '-inf', now, 'LIMIT', 0, MOST_TARGETS + n_full)
for _, target in ipairs(targets) do
  if #taken >= free or (under_way[target] or 0) >= most then
    left = 1
  elseif not try(look, target) then
    odd[#odd + 1] = target -- its queue is none: it must not keep others from theirs
    redis.call('ZREM', key('due'), target)
  end
end
if #targets == MOST_TARGETS + n_full then left = 1 end
if ids[1] then redis.call('SET', mine, token .. ' ' .. table.concat(ids, ' '), 'PX', lease_ms + 1000) end
return {now, left, odd, taken}
