-- A job's record, read once: each field that is asked for costs as much as the rest of a call, so each move names what it needs.
-- `write` changes the record at once; a move that is made in steps gathers its changes by `set`, and `save` writes them.
local FIELDS = {
  'status', 'fence', 'worker', 'owner', 'group', 'class', 'model', 'created_ms', 'started_ms', 'cancel', 'events', 'watched', 'response',
  'result_ttl_s', 'webhook_events', 'deliveries',
}
local function fields_and(more) -- Lua's own functions are not there while a library is made
  local names = {}
  for n = 1, #FIELDS do names[n] = FIELDS[n] end
  for n = 1, #more do names[#names + 1] = more[n] end
  return names
end
local TO_START = fields_and({'attempt', 'hist', 'request', 'cost', 'run_timeout_s', 'start_deadline_s', 'engine_deaths', 'suspect', 'traceparent'})
local TO_RETURN = fields_and({'attempt', 'hist', 'said', 'stage', 'released', 'engine_deaths', 'suspect', 'traceparent'})

-- fields: TO_START, TO_RETURN, or what every end needs. -> the job, or nil where there is none
local function read(id, fields)
  fields = fields or FIELDS
  local seen = redis.call('HMGET', record(id), unpack(fields))
  if not seen[1] then return nil end
  -- Written out, since a table that grows field by field is made anew five times.
  local job = {
    id = id, changed = {}, status = seen[1], fence = seen[2], worker = seen[3], owner = seen[4], group = seen[5],
    class = IS_CLASS[seen[6]] and seen[6] or 'default', model = seen[7] or '', created_ms = tonumber(seen[8]), started_ms = tonumber(seen[9]),
    cancel = seen[10], events = tonumber(seen[11]) or 0, watched = seen[12], response = seen[13], result_ttl_s = seen[14],
    webhook_events = seen[15], deliveries = seen[16],
  }
  for n = #FIELDS + 1, #fields do job[fields[n]] = seen[n] or nil end
  return job
end

local function write(job, ...) redis.call('HSET', record(job.id), ...) end
local function set(job, name, value, ...)
  local changed = job.changed
  job[name] = value
  changed[#changed + 1], changed[#changed + 2] = name, value
  if ... then return set(job, ...) end
end
local function save(job)
  if job.changed[1] then write(job, unpack(job.changed)) end
  job.changed = {}
end
