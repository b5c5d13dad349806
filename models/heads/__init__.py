"""Heads on the output of decoder layers: what a file says of one, and those that run on a lane."""
