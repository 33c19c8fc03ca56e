-- id -> 1 | 0: somebody wants this job's text while it is generated; not for a job that is gone
if redis.call('EXISTS', record(ARGV[1])) == 0 then return 0 end
redis.call('HSET', record(ARGV[1]), 'watched', 1)
return 1
