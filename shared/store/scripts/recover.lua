-- needs: events, deliver
-- endpoint, where in its owner's feed to begin, limit -> {how many deliveries became due, where to go on, or ''}: what the owner's
-- jobs did since then, as far as it was not handed over
local endpoint, n, last = ARGV[1], 0, ''
local seen = redis.call('HMGET', key('endpoint:' .. endpoint), 'owner', 'updated_ms')
if not seen[1] then return {0, ''} end

-- What is known of a delivery that was taken goes with its job. It was due as soon as it happened, if the endpoint was as it is now.
local function was_taken(told, event)
  local gone = redis.call('EXISTS', key('delivery:' .. event .. ':' .. endpoint)) == 0 and job_ttl_ms(told.job) == 1000
  return gone and tonumber(told.at_ms) >= tonumber(seen[2])
end
local function again(told, kind, event)
  if not was_taken(told, event) then n = n + offer(endpoint, kind, event, told.job, told.n, told.at_ms) end
end
local function recover(fields)
  local told = {}
  for i = 1, #fields, 2 do told[fields[i]] = fields[i + 1] end
  if told.event ~= '' then
    again(told, told.type, told.event)
    if (told.response or '') ~= '' then again(told, told.response, response_event(told.event)) end
  end
end

local entries = redis.call('XRANGE', key('feed:' .. seen[1]), ARGV[2], '+', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do try(recover, entry[2]) end
if #entries == tonumber(ARGV[3]) then last = '(' .. entries[#entries][1] end
return {n, last}
