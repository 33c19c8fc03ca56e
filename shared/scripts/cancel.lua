-- id, error JSON -> status before the call, or nil; a running job is marked, and its worker told
local id = ARGV[1]
local status = redis.call('HGET', record(id), 'status')
if status == 'queued' then
  finish(id, 'cancelled', 'error', ARGV[2])
elseif status == 'running' then
  redis.call('HSET', record(id), 'cancel', ARGV[2])
  redis.call('PUBLISH', key('cancels'), id)
end
return status
