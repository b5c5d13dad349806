"""Lanes over models whose layers keep states: how rows and prompts are read, each token once."""
