-- needs: owners
-- What happened to a job is a field of its record: `hist`, one after the other, each its number, its kind, the ms since the job was
-- created and what else there is to it. Only the text of a watched job has a stream, whose numbers are of the same count, from 1:
-- so a reader sees what a cap took from it.
local KINDS = {queued = 'q', running = 'r', reset = 'x', fetching = 'f', decoding = 'd', generating = 'g'}
local MOST_HIST = 2000 -- bytes; a job that is handed back for a day must not grow
-- -> what is to be written of it, as names and values
local function emit(job, kind, more)
  local since = now_ms() - (job.created_ms or now_ms())
  job.events = job.events + 1
  job.hist = string.format('%s%d%s%d%s ', job.hist or '', job.events, KINDS[kind], since, more and ':' .. more or '')
  if #job.hist > MOST_HIST then job.hist = string.match(job.hist, ' (.*)$', #job.hist - MOST_HIST) end
  if job.watched then redis.call('PUBLISH', key('news'), job.id) end
  return 'events', job.events, 'hist', job.hist
end

-- The end of a job that was made as one of OpenAI's responses has a second name, in its words; '' where there is none.
local ENDS = {['job.succeeded'] = 'response.completed', ['job.failed'] = 'response.failed', ['job.cancelled'] = 'response.cancelled'}
local function response_end(job, kind)
  if not job.response then return '' end
  if kind == 'job.succeeded' and cjson.decode(job.output).finish_reason == 'length' then return 'response.incomplete' end
  return ENDS[kind] or ''
end
local function response_event(event) return event .. '_response' end

-- The feed is what an owner's streams read, and endpoints that recover: it is written for owners who have endpoints, or who read it
-- within the last month.
local function write_feed(owner, ...)
  local reader = account(owner)
  if reader.endpoints <= 0 and reader.feed_until_ms <= now_ms() then return end
  local feed = key('feed:' .. owner)
  redis.call('XADD', feed, 'MAXLEN', '~', 10000, '*', ...)
  redis.call('PEXPIRE', feed, KEEP_MS)
  redis.call('PUBLISH', key('news'), 'feed:' .. owner)
end
