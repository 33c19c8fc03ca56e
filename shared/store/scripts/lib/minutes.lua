-- What is counted by the minute stands as `minute`, `ended` of it and `ended_before` of the one before, as of the last count.
-- -> the minute now, how many ended in it, how many in the one before
local function recent(seen_minute, seen, seen_before)
  local minute, n = math.floor(now_ms() / 60000), tonumber(seen or 0)
  local age = minute - (seen_minute or 0)
  if age == 0 then return minute, n, tonumber(seen_before or 0) end
  return minute, 0, age == 1 and n or 0
end
