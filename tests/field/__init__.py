"""Inputs as people send them, with the truth drawn in: ``python -m tests.field BASE_URL`` asks a running service about each."""
