"""Drafts: who proposes the next tokens of a batch, and how many."""
