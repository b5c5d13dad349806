"""A plan and its models made one: lanes, bound terms, and every check that needs a checkpoint."""
