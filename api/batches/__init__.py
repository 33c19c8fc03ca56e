"""The batch runner, a process of its own: ``python -m api.batches.main``."""
