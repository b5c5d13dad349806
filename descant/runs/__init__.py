"""A run from its file to its folder: rows, processes, the journal, where it came from."""
