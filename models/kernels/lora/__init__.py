"""What adapters add to the outputs of modules, in two launches that read what the rows use."""
