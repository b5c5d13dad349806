"""A formula's parameters, fitted to texts; gates and weights of a prompt's own."""
