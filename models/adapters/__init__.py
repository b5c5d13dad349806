"""Adapters as peft stores them: which are understood, how they are read, and how one is merged."""
