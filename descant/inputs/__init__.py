"""What a user writes, read and checked: run files, data files, grids. Needs no torch."""
