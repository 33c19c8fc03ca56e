-- id, error JSON -> 1 | 0 where it is no response: it is none any more, and its job is cancelled and goes a second after its end
local id = ARGV[1]
if redis.call('HDEL', record(id), 'response') == 0 then return 0 end
redis.call('HSET', record(id), 'result_ttl_s', 1)
local job = read(id)
local before = cancel_job(job, ARGV[2])
if before ~= 'queued' and before ~= 'running' then keep_as_job('evt_' .. string.sub(id, 5), retain(job)) end
return 1
