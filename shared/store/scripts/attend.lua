-- needs: clock
-- sender, ms for which it counts as there -> nothing: a sender is at work
local now = mind_clock()
redis.call('ZADD', key('senders'), now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', key('senders'), '-inf', '(' .. now)
