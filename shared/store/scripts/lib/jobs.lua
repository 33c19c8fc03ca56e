-- needs: records, fair_queues, usage, events, groups, minutes, suspects
local function may_move(from, to) return from and MOVES[from] ~= nil and MOVES[from][to] == true end

-- An event about a job's state stands in its owner's feed, too, and is due to everybody who asked for it. keep_ms: of its end.
local function publish_state(job, n, kind, event, keep_ms)
  if not job.owner then return end
  local now, owner, response = now_ms(), account(job.owner), response_end(job, kind)
  write_feed(job.owner, 'type', kind, 'at_ms', now, 'job', job.id, 'n', n, 'event', event, 'response', response)
  if event == '' then return end
  if job.webhook_events and string.find(job.webhook_events, kind .. ' ', 1, true) then
    local hook = redis.call('HMGET', record(job.id), 'webhook_target', 'webhook_url', 'webhook_payload')
    if hook[1] then
      deliver(event, hook[1], job.owner, job.id, keep_ms, now, kind, 'url', hook[2] or '', 'payload', hook[3] or '')
    end
  end
  for _, endpoint in ipairs(owner.endpoints > 0 and redis.call('ZRANGE', key('endpoints:' .. job.owner), 0, -1) or {}) do
    deliver_if_wanted(endpoint, kind, event, job.id, keep_ms, now)
    if response ~= '' then deliver_if_wanted(endpoint, response, response_event(event), job.id, keep_ms, now) end
  end
end

-- From the end on a job is kept for as long as its client said; a day, where its record does not tell. -> until when its
-- deliveries are kept
local function retain(job)
  local ttl_ms = (tonumber(job.result_ttl_s) or 86400) * 1000
  if job.owner then
    local lists = lists_with(job.owner, job.group)
    redis.call('ZADD', key('retained'), now_ms() + ttl_ms, job.id .. ' ' .. lists[#lists])
  end
  redis.call('PEXPIRE', record(job.id), ttl_ms)
  if job.watched then redis.call('PEXPIRE', key('events:' .. job.id), ttl_ms) end
  local keep_ms = now_ms() + ttl_ms + 1000
  for delivery in string.gmatch(job.deliveries or '', '%S+') do keep_as_job(delivery, keep_ms) end
  return keep_ms
end

-- Put a job that may start into its owner's queue; one that was handed back keeps its place, a suspect its group.
local function make_startable(job)
  if job.suspect then return hold_suspect(job) end
  local owner, queue = account(job.owner), queue_name(job.class, job.model)
  redis.call('ZADD', waiting_key(queue, owner), job.created_ms or 0, job.id)
  if not may_run(owner) then
    if not owner.vt[queue] then set_owner(owner, 'vt:' .. queue, 0) end -- so that its next turn finds it
    return
  end
  enter(owner, queue)
  ring(job.class, job.model)
end

-- A job is to start again: now, or not before an instant, ms.
local function enqueue(job, at)
  local owner = account(job.owner)
  set(job, 'status', 'queued', emit(job, 'queued'))
  save(job)
  set_owner(owner, 'queued', owner.queued + 1)
  set_total('queued', total('queued') + 1)
  if at then
    redis.call('ZADD', key('delayed'), at, job.id)
    redis.call('ZADD', waiting_of(job.owner), job.created_ms, job.id)
  else
    make_startable(job)
  end
  publish_state(job, job.events, 'job.queued', '')
end

-- A queued job waits no more.
local function count_off(owner)
  if owner then set_owner(owner, 'queued', math.max(0, owner.queued - 1)) end
  set_total('queued', total('queued') - 1)
end
local function leave_queue(job)
  local owner, queue = job.owner and account(job.owner), queue_name(job.class, job.model)
  count_off(owner)
  if not owner then return redis.call('ZREM', key('delayed'), job.id) end
  if redis.call('ZREM', key('delayed'), job.id) == 1 then return redis.call('ZREM', waiting_of(job.owner), job.id) end
  redis.call('ZREM', waiting_key(queue, owner), job.id)
  if redis.call('EXISTS', waiting_key(queue, owner)) == 0 then leave(owner, queue) end
end

-- A worker's place is free again.
local function let_go(job)
  if job.worker then redis.call('HDEL', key('held:' .. job.worker), job.id) end
  if job.owner then free_turn(account(job.owner)) end
end

-- A worker's place is free, of a job whose record tells nothing any more: whose it was stands beside its fence.
local function forget_held(worker, id)
  local held = redis.call('HGET', key('held:' .. worker), id)
  if redis.call('HDEL', key('held:' .. worker), id) == 0 then return end
  local owner = string.match(held, '^%d+ (.*)$')
  if owner then free_turn(account(owner)) end
end

-- The tokens of an end: of the prompt, of pixels among them, of the text; none where there is no output.
local USAGE = '^"usage":{"prompt_tokens":(%d+),"vision_tokens":(%d+),"output_tokens":(%d+)}'
local function tokens_of(job)
  local at = string.find(job.output or '', '"usage":{', 1, true) -- as plain text: a pattern is tried at each byte of the answer
  if not at then return end
  local prompt, vision, output = string.match(job.output, USAGE, at)
  return tonumber(prompt), tonumber(vision), tonumber(output)
end

-- What is counted of an end: in all, in this minute, and what shared/store/tallies.py reads. It is written where the call ends.
local function tally(name, n) tallies[name] = (tallies[name] or 0) + n end
local function observe(what, class, ms)
  local n = 1
  while BUCKETS_MS[n] and ms > BUCKETS_MS[n] do n = n + 1 end
  tally(what .. ' ' .. class .. ' ' .. n, 1)
  tally(what .. '_ms ' .. class, math.max(0, ms))
end
local function count_end(job, status, now, tokens)
  local code = string.match(job.error or '', '"code": "([%l_]+)"}$') or ''
  n_ended = n_ended + 1
  tally(status, 1)
  tally('end ' .. job.class .. ' ' .. status .. ' ' .. (status == 'succeeded' and '' or code) .. ' ' .. job.model, 1)
  if job.started_ms then
    observe('wait', job.class, job.started_ms - (job.created_ms or job.started_ms))
    observe('run', job.class, now - job.started_ms)
  end
  for n, name in ipairs({'prompt', 'vision', 'output'}) do
    if tokens[n] then tally('tokens ' .. name, tokens[n]) end
  end
end
local function tallied()
  if n_ended == 0 then return {} end
  local names = {}
  for name in pairs(tallies) do names[#names + 1] = name end
  local seen = redis.call('HMGET', key('totals'), 'minute', 'ended', 'ended_before', unpack(names))
  local minute, ended, before = recent(seen[1], seen[2], seen[3])
  local facts = {'minute', minute, 'ended', ended + n_ended, 'ended_before', before}
  for n, name in ipairs(names) do
    facts[5 + 2 * n], facts[6 + 2 * n] = name, string.format('%d', (tonumber(seen[3 + n]) or 0) + tallies[name])
  end
  return facts
end
local function save_totals()
  local facts = tallied()
  for name, value in pairs(new_totals) do facts[#facts + 1], facts[#facts + 2] = name, value end
  if facts[1] then redis.call('HSET', key('totals'), unpack(facts)) end
end

-- The only way into a final state: record, queues, retention, the due deliveries and the news of it in one step. ...: its output
-- or its error, as names and values
local function finish(job, status, ...)
  local now, before, facts = now_ms(), job.status, {...}
  if not job.started_ms then redis.call('ZREM', key('deadlines'), job.id) end
  for n = 1, #facts, 2 do job[facts[n]] = facts[n + 1] end
  job.status = status
  job.events = job.events + 2 -- the end's number; the one before is that of the text that is not in the stream
  save(job)
  write(job, 'status', status, 'finished_ms', now, 'events', job.events, ...)
  redis.call('HDEL', record(job.id), 'stage', 'start_deadline_s', 'run_timeout_s', 'cost') -- it will not run again
  if job.cancel then redis.call('HDEL', record(job.id), 'cancel') end
  local prompt, vision, output = tokens_of(job)
  if before == 'queued' then leave_queue(job) end
  if before == 'running' then let_go(job) end
  if job.owner then
    count_used(account(job.owner), job.model, {[status] = 1, prompt_tokens = prompt, vision_tokens = vision, output_tokens = output})
  end
  count_end(job, status, now, {prompt, vision, output})
  if job.watched then redis.call('PUBLISH', key('news'), job.id) end
  local keep_ms = retain(job)
  publish_state(job, job.events, 'job.' .. status, 'evt_' .. string.sub(job.id, 5), keep_ms)
  for _, whose in ipairs(job.owner and lists_with(job.owner, job.group) or {}) do
    redis.call('ZADD', list_of(whose, status), job.created_ms or now, job.id)
  end
  if job.owner and job.group then end_in_group(job.owner, job.group, job.id, keep_ms) end
  redis.call('PUBLISH', key('finals'), job.id)
end

-- A job whose record is damaged ends, as far as its record lets it, and leaves the queues: nobody comes upon it again. The ids
-- are given back to be logged.
local function set_aside(id, err)
  aside[#aside + 1] = id
  redis.call('ZREM', key('deadlines'), id)
  redis.call('ZREM', key('delayed'), id)
  local ok, job = try(read, id)
  if ok and not job or redis.call('TYPE', record(id)).ok ~= 'hash' then return end
  if ok and try(finish, job, 'failed', 'error', err) then return end
  redis.call('HSET', record(id), 'status', 'failed', 'finished_ms', now_ms(), 'error', err)
  redis.call('EXPIRE', record(id), 86400)
  local owner, group = unpack(redis.call('HMGET', record(id), 'owner', 'group'))
  local keep_ms, lists = now_ms() + 86400000, owner and lists_with(owner, group) or {}
  for _, whose in ipairs(lists) do redis.call('ZADD', list_of(whose, 'failed'), now_ms(), id) end
  if owner then redis.call('ZADD', key('retained'), keep_ms, id .. ' ' .. lists[#lists]) end
  if owner and group then end_in_group(owner, group, id, keep_ms) end
  redis.call('PUBLISH', key('finals'), id)
end

-- At once while queued, else by telling its worker. -> status before, or false
local function cancel_job(job, err)
  if not job then return false end
  local before = job.status
  if before == 'queued' then
    finish(job, 'cancelled', 'error', err)
  elseif before == 'running' then
    set(job, 'cancel', err)
    save(job)
    redis.call('SADD', key('orders:' .. (job.worker or '')), job.id)
    redis.call('PUBLISH', key('cancels'), job.id)
  end
  return before
end

-- A running job goes back into its queue, as another attempt; the text so far is void.
local function put_back(job, at)
  set(job, 'fence', (tonumber(job.fence) or 0) + 1)
  if job.said then
    set(job, emit(job, 'reset'))
    redis.call('HDEL', record(job.id), 'said')
  end
  redis.call('HDEL', record(job.id), 'stage')
  let_go(job)
  enqueue(job, at)
end

-- A worker hands a job back. change: what else becomes of it -> 1 | 0 where it is no longer this worker's; a repeated call gets the same
local function uncharge(job) set(job, 'attempt', math.max(0, job.attempt - 1)) end
local function hand_back(id, worker, fence, why, change, at)
  local job = read(id, TO_RETURN)
  if not job then
    forget_held(worker, id)
    return 0
  end
  if job.released == worker .. ' ' .. fence then return 1 end
  if job.status ~= 'running' or job.fence ~= fence or job.worker ~= worker then return 0 end
  set(job, 'released', worker .. ' ' .. fence)
  if job.cancel then
    set(job, 'fence', fence + 1)
    finish(job, 'cancelled', 'error', job.cancel)
    return 1
  end
  change(job)
  redis.call('HINCRBY', key('totals'), 'released ' .. why, 1)
  put_back(job, at)
  return 1
end
