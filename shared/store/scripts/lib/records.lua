-- A job's record, read once; what a script changes of it is gathered, and written once by `save`.
local FIELDS = {
  'status', 'fence', 'worker', 'owner', 'group', 'class', 'model', 'attempt', 'created_ms', 'started_ms', 'cancel', 'events', 'hist', 'watched',
  'said', 'cost', 'response', 'result_ttl_s', 'webhook_events', 'webhook_target', 'webhook_url', 'webhook_payload', 'released', 'deliveries',
}
local function is_class(name)
  for _, class in ipairs(CLASSES) do if class == name then return true end end
  return false
end

-- Fields by name, and no others. -> the job, or nil where there is none
local function read_fields(id, names)
  local seen, job = redis.call('HMGET', record(id), unpack(names)), {id = id, changed = {}}
  for n, name in ipairs(names) do job[name] = seen[n] or nil end
  if not job.status then return nil end
  if not is_class(job.class) then job.class = 'default' end
  job.model = job.model or ''
  job.events, job.started_ms = tonumber(job.events) or 0, tonumber(job.started_ms)
  return job
end

-- What all moves need, and what else the script does: `more`, names.
local function read(id, more)
  if not more then return read_fields(id, FIELDS) end
  local names = {unpack(FIELDS)}
  for _, name in ipairs(more) do names[#names + 1] = name end
  return read_fields(id, names)
end

local function set(job, name, value)
  job[name] = value
  job.changed[#job.changed + 1] = name
  job.changed[#job.changed + 1] = value
end

local function save(job)
  if #job.changed > 0 then redis.call('HSET', record(job.id), unpack(job.changed)) end
  job.changed = {}
end
