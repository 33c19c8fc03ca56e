-- nothing -> nothing: due times follow a clock that was set back
follow_clock(redis.call('HGET', key('clock'), 'seen_ms'))
