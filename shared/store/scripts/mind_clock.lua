-- nothing -> nothing: due times follow a clock that was set back
mind_clock()
