"""A formula inside transformers' own generate, and as a logits processor."""
