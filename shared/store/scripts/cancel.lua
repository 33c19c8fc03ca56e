-- id, error JSON -> status before the call, or nil; a running job is marked, and its worker hears of it
return cancel_job(read(ARGV[1]), ARGV[2])
