-- What happened to a job is a field of its record: `hist`, one after the other, each its number, its kind, the ms since the job was
-- created and what else there is to it. Only the text of a watched job has a stream, whose numbers are of the same count, from 1:
-- so a reader sees what a cap took from it.
local KINDS = {queued = 'q', running = 'r', reset = 'x', fetching = 'f', decoding = 'd', generating = 'g'}
local MOST_HIST = 2000 -- bytes; a job that is handed back for a day must not grow
local function emit(id, kind, more)
  local seen = redis.call('HMGET', record(id), 'events', 'hist', 'created_ms', 'watched')
  local n, since = (tonumber(seen[1]) or 0) + 1, now_ms() - (tonumber(seen[3]) or now_ms())
  local hist = string.format('%s%d%s%d%s ', seen[2] or '', n, KINDS[kind], since, more and ':' .. more or '')
  if #hist > MOST_HIST then hist = string.match(hist, ' (.*)$', #hist - MOST_HIST) end
  redis.call('HSET', record(id), 'events', n, 'hist', hist)
  if seen[4] then redis.call('PUBLISH', key('news'), id) end
  return n
end

-- The end's number; the one before is that of the text that is not in the log, which readers take from the output.
local function emit_end(id)
  if redis.call('HEXISTS', record(id), 'watched') == 1 then redis.call('PUBLISH', key('news'), id) end
  return redis.call('HINCRBY', record(id), 'events', 2)
end

-- The end of a job that was made as one of OpenAI's responses has a second name, in its words; '' where there is none.
local ENDS = {['job.succeeded'] = 'response.completed', ['job.failed'] = 'response.failed', ['job.cancelled'] = 'response.cancelled'}
local function response_end(id, kind)
  local seen = redis.call('HMGET', record(id), 'response', 'output')
  if not seen[1] then return '' end
  if kind == 'job.succeeded' and cjson.decode(seen[2]).finish_reason == 'length' then return 'response.incomplete' end
  return ENDS[kind] or ''
end
local function response_event(event) return event .. '_response' end

-- The feed is what an owner's streams read, and endpoints that recover: it is written for owners who have endpoints, or who read it
-- within the last month.
local function tell(owner, ...)
  local seen = redis.call('HMGET', key('owner:' .. owner), 'endpoints', 'feed_until_ms')
  if tonumber(seen[1] or 0) <= 0 and tonumber(seen[2] or 0) <= now_ms() then return end
  local feed = key('feed:' .. owner)
  redis.call('XADD', feed, 'MAXLEN', '~', 10000, '*', ...)
  redis.call('PEXPIRE', feed, KEEP_MS)
  redis.call('PUBLISH', key('news'), 'feed:' .. owner)
end
