"""Searches over whole texts: their groups, what each keeps, and the values of texts."""
