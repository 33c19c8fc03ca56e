-- owner, the first day, the last one -> each day on which it used something, and what, as names and numbers
local owner, found = account(ARGV[1]), {}
for day = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local facts = {}
  for model, text in pairs(used_on(owner, day)) do
    for n, number in ipairs(numbers_of(text)) do
      if tonumber(number) > 0 then facts[#facts + 1], facts[#facts + 2] = USED[n] .. ' ' .. model, string.format('%d', number) end
    end
  end
  if facts[1] then found[#found + 1], found[#found + 2] = day, facts end
end
return found
