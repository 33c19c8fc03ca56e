-- worker, model: it takes no more jobs; its lease goes with the last that it holds
redis.call('ZREM', key('hungry:' .. ARGV[2]), ARGV[1])
if redis.call('HLEN', key('held:' .. ARGV[1])) == 0 then
  redis.call('ZREM', key('workers'), ARGV[1])
  redis.call('DEL', key('orders:' .. ARGV[1]), key('asked:' .. ARGV[1]))
end
return 1
