"""Sightline beside the other ways to run the same model on the same GPU: ``python -m bench.gpu``."""
