"""Rows and their keys and values: positions, masks, attention."""
