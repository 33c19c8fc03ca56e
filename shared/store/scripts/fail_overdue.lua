-- limit, the error JSON of start_deadline and of a damaged record -> {how many were looked at, ids set aside}: end the jobs that
-- were to begin by now and have not, whether or not a worker is there
local limit = tonumber(ARGV[1])
local late = redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', '(' .. now_ms(), 'LIMIT', 0, limit)

local function fail(id)
  redis.call('ZREM', key('deadlines'), id)
  local job = read(id)
  if job and job.status == 'queued' and not job.started_ms then finish(job, 'failed', 'error', ARGV[2]) end
end

for _, id in ipairs(late) do
  if not try(fail, id) then set_aside(id, ARGV[3]) end
end
return {#late, aside}
