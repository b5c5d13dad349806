"""Constraints: what may follow an answer so far, as masks over the vocabulary."""
