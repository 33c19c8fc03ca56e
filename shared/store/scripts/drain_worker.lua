-- worker, ms for which the order holds -> 1, or 0 where no such worker lives: it hears with its next notice that it is to leave
if redis.call('EXISTS', key('worker:' .. ARGV[1])) == 0 then return 0 end
redis.call('SET', key('drain:' .. ARGV[1]), 1, 'PX', ARGV[2])
return 1
