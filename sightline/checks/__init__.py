"""What Sightline needs on a machine, and what is to be done where it does not work: a line for each."""
