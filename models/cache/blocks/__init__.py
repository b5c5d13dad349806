"""Where the keys and values of rows lie, and what of them is shared or found again."""
