-- owner, group or '', since_ms or '', until_ms or '' -> {queued, running, then each ended state and its count}
local owner, group, since, till = ARGV[1], ARGV[2], ARGV[3] ~= '' and ARGV[3] or '-inf', ARGV[4] ~= '' and ARGV[4] or '+inf'
local lists, n_queued, n_running, counts = lists_with(owner, group), 0, 0, {}
local whose = lists[#lists]
local function n_in(list) return redis.call('ZCOUNT', list, since, till) end
local function is_in_span(made) return made >= (tonumber(since) or 0) and made <= (tonumber(till) or math.huge) end
for _, entry in ipairs(running_of(owner, group)) do
  if is_in_span(entry[2]) then n_running = n_running + 1 end
end
for _, list in ipairs(group == '' and queues_of(owner) or {list_of(whose)}) do n_queued = n_queued + n_in(list) end
if group ~= '' then n_queued = n_queued - n_running end
for _, id in ipairs(group ~= '' and astray_in(list_of(whose)) or {}) do
  if is_in_span(tonumber(redis.call('ZSCORE', list_of(whose), id))) then n_queued = n_queued - 1 end
end
for _, status in ipairs(ENDED) do
  counts[#counts + 1], counts[#counts + 2] = status, n_in(list_of(whose, status))
end
return {n_queued, n_running, unpack(counts)}
