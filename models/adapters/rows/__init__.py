"""Adapters as rows of one forward: what each row adds to the weights that all share."""
