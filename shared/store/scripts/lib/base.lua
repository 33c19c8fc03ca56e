-- In front of all that follows. MOVES, CLASSES, MAX_DUE and others are filled in by shared/store/lua.py.
-- What a call has found out so far. The helpers outlive it, so each call begins with nothing. prefix: stands before all keys; its hash
-- tag puts them into one slot, so that a Redis in cluster mode takes keys that are made here, too.
local PREFIX, now_is, owners, totals, new_totals, tallies, n_ended, aside, is_told, looked
local function begin(prefix)
  PREFIX, now_is, owners, totals, new_totals, tallies, n_ended, aside, is_told, looked = prefix, nil, {}, {}, {}, {}, 0, {}, false, {}
  if not redis then bind() end
end

local function key(name) return PREFIX .. name end
local function record(id) return PREFIX .. 'job:' .. id end

-- Only Redis's clock counts: a worker whose clock jumped must not lose or steal a lease.
-- It stands still while a script runs, so once is enough.
local function now_ms()
  if not now_is then
    local t = redis.call('TIME')
    now_is = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return now_is
end

-- A step for one of many records. -> true and what it gave, or false where the record is damaged, which must hurt nobody else.
-- What Redis refuses for reasons of its own, such as rights or a full disk, is no damage.
local function try(step, ...)
  local ok, given = pcall(step, ...)
  if ok then return true, given end
  local why = type(given) == 'table' and given.err or given
  local code = string.match(why, '^(%u+) ')
  local is_refused = string.find(why, 'ACL', 1, true) or string.find(why, 'nknown', 1, true) or string.find(why, 'not allowed', 1, true)
  if is_refused or (code and code ~= 'ERR' and code ~= 'WRONGTYPE') then error(given, 0) end
  return false
end

-- The feed, and deliveries that were not taken, are kept this long; the attempts of one delivery take four days.
local KEEP_MS = 7 * 86400000
