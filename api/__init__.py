"""The gateway: accepts jobs and answers for them; knows no model and installs no torch."""

#: Not asked of the installed package: images hold the sources, and no package of ours is installed there.
VERSION = "0.1.0"
