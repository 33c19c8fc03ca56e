"""All that is in Redis: connection, jobs, event log, outbox, endpoints, batches, uploads, API keys, workers; scripts in Lua."""
