-- The numbers of a job's events count up from 1, so that a reader sees what the cap took from it.
local function emit(id, kind, ...)
  local n = redis.call('HINCRBY', record(id), 'events', 1)
  redis.call('XADD', key('events:' .. id), 'MAXLEN', '~', 10000, n .. '-0', 'type', kind, 'at_ms', now_ms(), ...)
  redis.call('PUBLISH', key('news'), id)
  return n
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

-- The feed is what an owner's streams read, and endpoints that recover.
local function tell(owner, ...)
  local feed = key('feed:' .. owner)
  redis.call('XADD', feed, 'MAXLEN', '~', 10000, '*', ...)
  redis.call('PEXPIRE', feed, KEEP_MS)
  redis.call('PUBLISH', key('news'), 'feed:' .. owner)
end
