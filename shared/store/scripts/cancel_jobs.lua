-- error JSON, ids -> how many of them had not ended
local n = 0
for i = 2, #ARGV do
  local is_sound, before = try(function() return cancel_job(read(ARGV[i]), ARGV[1]) end)
  if is_sound and (before == 'queued' or before == 'running') then n = n + 1 end
end
return n
