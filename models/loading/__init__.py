"""Weights into memory: plain, quantised, sharded, with a value head; and a self check."""
