-- delivery, token, verdict, next_ms, pause_ms, row of its log, reason, failures of its target when it was taken; then those of the
-- next -> 1 | 0 for each, in order: write down how attempts went. 0: it is settled, or another's by now. verdict: 'delivered',
-- 'retry' after next_ms, 'given_up', or 'disabled', for which the endpoint keeps the reason. pause_ms: nothing goes to this target
-- for so long. A call whose reply was lost is repeated: nothing is written down twice.
local MOST_ROWS = 50
local answers, off, touched, verdicts = {}, {}, {}, {}

local function with_row(log, row)
  if not log or log == '' then return row end
  local _, n = string.gsub(log, '\n', '')
  if n >= MOST_ROWS - 1 then log = string.match(log, '\n(.*)$') end
  return log .. '\n' .. row
end

local function take_all_off()
  for target, deliveries in pairs(off) do take_off(target, deliveries) end
  off = {}
end

-- It has failed, and so has its target.
local function fail(target, pause_ms)
  local circuit, now = key('target:' .. target), now_ms()
  redis.call('HINCRBY', circuit, 'failures', 1)
  redis.call('HSETNX', circuit, 'failing_since_ms', now)
  if tonumber(pause_ms) > 0 then redis.call('HSET', circuit, 'paused_until_ms', now + pause_ms) end
  redis.call('PEXPIRE', circuit, KEEP_MS)
end

local function disable(target, reason)
  local endpoint, owner = key('endpoint:' .. target), owner_of(target)
  if redis.call('EXISTS', endpoint) == 0 then return end
  redis.call('HSET', endpoint, 'disabled_reason', reason, 'disabled_ms', now_ms())
  take_all_off()
  discard_target(target, owner)
end

local function settle(delivery, token, verdict, next_ms, pause_ms, row, reason, failures)
  local hash = key('delivery:' .. delivery)
  local seen = redis.call('HMGET', hash, 'token', 'target', 'log', 'keep_ms')
  local target = seen[2]
  if seen[1] ~= token or not target then return 0 end
  touched[target] = true
  verdicts[verdict] = (verdicts[verdict] or 0) + 1
  if verdict ~= 'delivered' then fail(target, pause_ms) end
  if verdict == 'retry' then
    redis.call('HSET', hash, 'token', '', 'log', with_row(seen[3], row))
    redis.call('ZADD', key('due:' .. target), 'XX', now_ms() + next_ms, delivery)
    return 1
  end
  redis.call('HSET', hash, 'state', verdict == 'delivered' and verdict or 'given_up', 'token', '', 'log', with_row(seen[3], row))
  keep(delivery, verdict == 'delivered' and seen[4])
  off[target] = off[target] or {}
  table.insert(off[target], delivery)
  if verdict == 'delivered' and tonumber(failures) > 0 then redis.call('DEL', key('target:' .. target)) end
  if verdict == 'disabled' then disable(target, reason) end
  return 1
end

for n = 1, #ARGV, 8 do
  local ok, answer = try(settle, unpack(ARGV, n, n + 7))
  answers[#answers + 1] = ok and answer or 0
end
for verdict, n in pairs(verdicts) do redis.call('HINCRBY', key('totals'), 'webhooks ' .. verdict, n) end
take_all_off()
for target in pairs(touched) do schedule(target) end
return answers
