-- What is known of a job after its retention: three bits in the filter of the day it was purged on, so that any number of
-- them needs the same megabyte. One in fifty ids that never were looks like one that was, at a million jobs a day.
local function traces(id, owner)
  local hash, bits = redis.sha1hex(owner .. ' ' .. id), {}
  for i = 1, 3 do bits[i] = tonumber(string.sub(hash, 6 * i - 5, 6 * i), 16) % 8388608 end
  return bits
end
local GONE_DAYS = 7
local function filter(days_ago) return key('gone:' .. math.floor(now_ms() / 86400000) - days_ago) end
