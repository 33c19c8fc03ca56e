-- id, id of the job that tries it anew: written down, while the record is kept
if redis.call('EXISTS', record(ARGV[1])) == 1 then redis.call('HSET', record(ARGV[1]), 'retried_as', ARGV[2]) end
