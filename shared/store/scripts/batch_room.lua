-- max_queued, share of it that stays free -> how many more jobs of batches the service would take now
local _, all = room(account(''), tonumber(ARGV[1]), tonumber(ARGV[2]))
return all
