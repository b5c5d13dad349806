"""Constraints on what an answer may be: given, compiled, followed token by token."""
