"""Constraints on an answer: given, compiled, and the masks of its next token."""
