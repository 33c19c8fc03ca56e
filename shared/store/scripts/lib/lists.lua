-- needs: fair_queues
-- Where an owner's jobs are found by state, each by when it was made: those that wait in its queues, or in `waiting:<owner>` until
-- their delay is over; those that run with their workers; those that have ended in `jobs.<status>:<owner>`. What has a group stands in
-- `jobs:<owner> <group>` until it ends, and in `jobs.<status>:<owner> <group>` from then on.
local function list_of(whose, status) return key((status and 'jobs.' .. status or 'jobs') .. ':' .. whose) end
local function lists_with(owner, group) return (group or '') ~= '' and {owner, owner .. ' ' .. group} or {owner} end
local function waiting_of(owner) return key('waiting:' .. owner) end

-- A job whose record is gone, or too damaged to end, cannot leave its group's list of open jobs: nothing tells of the group. As the
-- others end it comes to stand in front. -> ids before the oldest job that is open
local function astray_in(list)
  local found = {}
  while true do
    local id = redis.call('ZRANGE', list, #found, #found)[1]
    local is_sound, status = try(redis.call, 'HGET', record(id or ''), 'status')
    if not id or (is_sound and status and MOVES[status] and next(MOVES[status])) then return found end
    found[#found + 1] = id
  end
end

-- The lists of what waits.
local function queues_of(name)
  local owner, found = account(name), {waiting_of(name)}
  for queue in pairs(owner.vt) do found[#found + 1] = waiting_key(queue, owner) end
  return found
end

-- What runs, by when it was made: looked up among all that workers hold, which is little beside what waits. group: '' for any
local function running_of(owner, group)
  local found = {}
  for _, worker in ipairs(redis.call('ZRANGE', key('workers'), 0, -1)) do
    local is_book, held = try(redis.call, 'HGETALL', key('held:' .. worker))
    for n = 1, is_book and #held or 0, 2 do
      if string.match(held[n + 1], '^%d+ (.*)$') == owner then
        local is_sound, seen = try(redis.call, 'HMGET', record(held[n]), 'created_ms', 'group')
        local made = is_sound and tonumber(seen[1])
        if made and (group == '' or seen[2] == group) then found[#found + 1] = {held[n], made} end
      end
    end
  end
  return found
end
