-- needs: clock
-- limit -> the targets that something is due to
return redis.call('ZRANGEBYSCORE', key('due'), '-inf', mind_clock(), 'LIMIT', 0, ARGV[1])
