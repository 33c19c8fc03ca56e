-- batch, token, line, where the next one begins, what its result needs (JSON), its job, max_queued, share of it that stays free
-- -> nil where the lease is lost | 'taken' | 'full': there is no room for its job | 'stop': no more lines are taken
-- | {what, how much a day has, s until the next}: its key's quota is used up
local id, line, batch, job = ARGV[1], tonumber(ARGV[3]), batch_key(ARGV[1]), ARGV[6]
if not runs(id, ARGV[2]) then return false end
if redis.call('HEXISTS', batch .. ':flight', line) == 1 then return 'taken' end -- a call repeated, whose reply was lost
local seen = redis.call('HMGET', batch, 'status', 'line', 'owner')
if seen[1] ~= 'in_progress' or tonumber(seen[2] or 0) ~= line - 1 then return 'stop' end
local owner = account(seen[3])
local own, all = room(owner, tonumber(ARGV[7]), tonumber(ARGV[8]))
local what, most = spent(owner)
if what then return {what, most, day_left_s()} end
if own <= 0 or all <= 0 then return 'full' end
redis.call('HSET', batch, 'offset', ARGV[4], 'line', line)
redis.call('HSET', batch .. ':flight', line, ARGV[5])
redis.call('SADD', key('promised:' .. seen[3]), job) -- its place in the key's limits, before the job itself is there
return 'taken'
