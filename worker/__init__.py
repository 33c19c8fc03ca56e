"""The workers: one runs jobs on a resident engine, one delivers webhooks."""
