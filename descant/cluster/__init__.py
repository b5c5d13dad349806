"""``--ray``: the rows of a run or a sweep, decoded by the nodes of a Ray cluster."""
