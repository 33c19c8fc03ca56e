"""A fleet of played workers on one Redis: see ``__main__``."""
