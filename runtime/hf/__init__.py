"""A formula inside transformers' own generate."""
