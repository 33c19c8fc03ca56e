-- endpoint, where in its owner's feed to begin, limit -> {how many deliveries became due, where to go on, or ''}: deliver again
-- what happened to the owner's jobs since then, unless it was delivered
local endpoint, n, last = ARGV[1], 0, ''
local seen = redis.call('HMGET', key('endpoint:' .. endpoint), 'owner', 'updated_ms')
if not seen[1] then return {0, ''} end

-- Ms for which a job or batch is still kept; -1 where it has not ended, -2 where it is gone.
local function left_ms(job) return redis.call('PTTL', string.sub(job, 1, 6) == 'batch_' and key('batch:' .. job) or record(job)) end

local function again(entry, kind, event)
  local delivery = event .. ':' .. endpoint
  local hash, left = key('delivery:' .. delivery), left_ms(entry.job)
  local state = redis.call('HGET', hash, 'state')
  if state == 'delivered' or (state == 'pending' and redis.call('ZSCORE', key('due:' .. endpoint), delivery)) then return end
  -- What is known of a delivery that was taken goes with its job. It was due as soon as it happened, if the endpoint was as it is.
  if not state and left == -2 and tonumber(entry.at_ms) >= tonumber(seen[2]) then return end
  if deliver_if_wanted(endpoint, kind, event, entry.job, left ~= -1 and now_ms() + math.max(left, 0) + 1000, entry.at_ms) == 0 then return end
  n = n + 1
  if not state then return end
  redis.call('HDEL', hash, 'token', 'reason')
  redis.call('PERSIST', hash)
end
local function recover(fields)
  local entry = {}
  for i = 1, #fields, 2 do entry[fields[i]] = fields[i + 1] end
  if entry.event ~= '' then
    again(entry, entry.type, entry.event)
    if (entry.response or '') ~= '' then again(entry, entry.response, response_event(entry.event)) end
  end
end

local entries = redis.call('XRANGE', key('feed:' .. seen[1]), ARGV[2], '+', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do try(recover, entry[2]) end
if #entries == tonumber(ARGV[3]) then last = '(' .. entries[#entries][1] end
return {n, last}
