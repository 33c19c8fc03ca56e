"""The gateway: accepts jobs and answers for them; knows no model and installs no torch."""
