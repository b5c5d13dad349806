"""What can step: weights with rows, of one process or another, or of the caller."""
