"""Deliveries to webhooks, apart from the engine."""
