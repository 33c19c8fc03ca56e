"""The page: static files for browsers, made of what the public API offers and nothing else."""
