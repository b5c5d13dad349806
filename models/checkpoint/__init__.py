"""What a declaration and its files say of a model, before weights are read."""
