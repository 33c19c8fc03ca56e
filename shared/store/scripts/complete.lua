-- needs: jobs
-- id, fence, status, then 'output' and/or 'error', each with its JSON -> 1 | 0 when fence or state say that it is too late. A call
-- whose reply was lost is repeated, and gets the same answer: whoever else ends a job changes the fence.
local id, fence, status = ARGV[1], ARGV[2], ARGV[3]
local seen = redis.call('HMGET', record(id), 'status', 'fence')
if seen[2] == fence and seen[1] == status then return 1 end
if seen[2] ~= fence or seen[1] ~= 'running' or not may_move(seen[1], status) then return 0 end
finish(id, status, unpack(ARGV, 4))
return 1
