-- needs: jobs
-- Run a script, and write what it gathered. Where it fails midway, too: what it did to other keys stands.
local function run(prefix, script)
  begin(prefix)
  local ok, given = pcall(script)
  save_owners()
  save_totals()
  if not ok then error(given, 0) end
  return given
end
