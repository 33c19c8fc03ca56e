-- owner -> how many jobs it has left today, how many vision tokens, -1 where it has no quota of them; s until the next day
local owner = account(ARGV[1])
return {jobs_left(owner) or -1, vision_tokens_left(owner) or -1, day_left_s()}
