"""What a user installs: the command line and the HTTP client."""

__version__ = "0.1.0"
