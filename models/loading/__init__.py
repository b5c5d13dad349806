"""Weights into memory: plain, quantised, sharded, or with a value head; and a self check."""
