"""Constraints on an answer: given, compiled, and masks over the vocabulary after an answer so far."""
