"""A run from its file to its folder: decoders, processes, resuming, provenance."""
