"""What a user installs: the command line and the HTTP client."""
