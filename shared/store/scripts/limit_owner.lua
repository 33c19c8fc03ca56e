-- needs: queues
-- owner, max_queued, max_running, weight: from now on; where more may run than so far, they are rung for
local owner = account(ARGV[1])
set_owner(owner, 'max_queued', tonumber(ARGV[2]), 'max_running', tonumber(ARGV[3]), 'weight', tonumber(ARGV[4]))
enter_all(owner)
return 1
