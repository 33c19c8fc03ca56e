"""What a job costs Redis."""
