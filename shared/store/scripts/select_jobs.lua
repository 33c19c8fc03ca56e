-- owner, group or '', most ids, most looks (one a record, and one for each 2 KiB in which words are looked for), the id to go on after or '',
-- when that was made (ms, '' where nobody knows), then each
-- '' for any: since_ms, until_ms, class, model, error code, words, '1' for those that were not retried; then states
-- -> {1 where there may be more, else 0, the last id looked at or '', ids}, the newest first | nil where the place of `after` is not known
local owner, group, most, most_looks, after, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local since, till, words, wanted = ARGV[7] ~= '' and ARGV[7] or '-inf', ARGV[8] ~= '' and ARGV[8] or '+inf', ARGV[12], {}
for n = 14, #ARGV do wanted[ARGV[n]] = true end
local lists = lists_with(owner, group)
local whose = lists[#lists]
local code = '"code": "' .. ARGV[11] .. '"'
local is_plain = ARGV[9] .. ARGV[10] .. ARGV[11] .. words .. ARGV[13] == '' and (group == '' or wanted.queued == wanted.running)

-- Words are looked for in what the client wrote: the texts of its messages, and its metadata.
local function says(part)
  if type(part) == 'string' then return string.find(string.lower(part), words, 1, true) ~= nil end
  if type(part) ~= 'table' then return false end
  for name, value in pairs(part) do
    if (type(name) == 'number' or name == 'text' or name == 'content') and says(value) then return true end
  end
  return false
end
local n_looks, LOOK_BYTES = 0, 2048
local in_json = string.gsub(string.sub(cjson.encode(words), 2, -2), '\\/', '/') -- which our JSON does not escape
local function has_words(metadata, request)
  n_looks = n_looks + math.floor((#(metadata or '') + #(request or '')) / LOOK_BYTES)
  if string.find(string.lower(metadata or ''), in_json, 1, true) then return true end
  return string.find(string.lower(request or ''), in_json, 1, true) and says(cjson.decode(request).messages)
end

-- Only the fields that are asked about are read: each costs as much as the rest of a look.
local names, checks = {'status'}, {}
local function need(given, check, ...)
  if given == '' then return end
  local n = #names
  for _, name in ipairs({...}) do names[#names + 1] = name end
  checks[#checks + 1] = function(seen) return check(seen[n + 1], seen[n + 2]) end
end
need(ARGV[9], function(class) return (class or 'default') == ARGV[9] end, 'class')
need(ARGV[10], function(model) return model == ARGV[10] end, 'model')
need(ARGV[11], function(err) return string.find(err or '', code, 1, true) end, 'error')
need(ARGV[13], function(retried_as) return not retried_as end, 'retried_as')
need(words, has_words, 'metadata', 'request')

local function fits(id)
  if is_plain then return redis.call('EXISTS', record(id)) == 1 end -- its retention may be over
  local seen = redis.call('HMGET', record(id), unpack(names))
  if not wanted[seen[1]] then return false end
  for _, check in ipairs(checks) do if not check(seen) then return false end end
  return true
end

if after ~= '' then
  local is_sound, seen = try(redis.call, 'HMGET', record(after), 'owner', 'created_ms')
  local known = is_sound and seen[1] == owner and seen[2]
  for _, status in ipairs(ENDED) do known = known or redis.call('ZSCORE', list_of(whose, status), after) end
  known = tonumber(known) -- in the future where the clock has gone back since
  at = known or at
  if not at or (not known and at > now_ms() + 60000) then return nil end
end

local function newer(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] > b[1]) end
local function is_next(entry) return after == '' or newer({after, at}, entry) end

-- A source gives the entries of one list, the newest first.
local PIECE = 200
local function source(index)
  local page, n, offset, top = {}, 1, 0, till
  if after ~= '' and at < (tonumber(till) or math.huge) then top = at end
  local function head()
    while true do
      if n > #page then
        if offset > 0 and #page < 2 * PIECE then return nil end
        page, n = redis.call('ZREVRANGEBYSCORE', index, top, since, 'WITHSCORES', 'LIMIT', offset, PIECE), 1
        offset = offset + PIECE
        if not page[1] then return nil end
      end
      local entry = {page[n], tonumber(page[n + 1])}
      if is_next(entry) then return entry end
      n = n + 2
    end
  end
  return {head = head, step = function() n = n + 2 end}
end
local function source_of_running()
  local found, n = running_of(owner, group), 1
  table.sort(found, newer)
  local function head()
    local entry = found[n]
    while entry and (entry[2] > (tonumber(till) or math.huge) or not is_next(entry)) do
      n = n + 1
      entry = found[n]
    end
    return entry and entry[2] >= (tonumber(since) or 0) and entry or nil
  end
  return {head = head, step = function() n = n + 1 end}
end

local sources, ids, last = {}, {}, ''
if wanted.queued and group ~= '' then
  sources[1] = source(list_of(whose))
elseif wanted.running then
  sources[1] = source_of_running()
end
for _, list in ipairs(wanted.queued and group == '' and queues_of(owner) or {}) do sources[#sources + 1] = source(list) end
for _, status in ipairs(ENDED) do
  if wanted[status] then sources[#sources + 1] = source(list_of(whose, status)) end
end
while true do
  local best, first
  for _, each in ipairs(sources) do
    local entry = each.head()
    if entry and (not first or newer(entry, first)) then best, first = each, entry end
  end
  if not first then return {0, last, ids} end
  if #ids == most or n_looks >= most_looks then return {1, last, ids} end
  best.step()
  n_looks, last = n_looks + 1, first[1]
  local is_sound, is_match = try(fits, last)
  if is_sound and is_match then ids[#ids + 1] = last end
end
