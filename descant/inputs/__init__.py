"""What a user writes, read and checked: run files, data files, grids, and the rows of a run."""
