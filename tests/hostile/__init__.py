"""Files made to hurt a service that decodes them, and what becomes of them: ``python -m tests.hostile`` prints the table."""
