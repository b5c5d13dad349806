"""lm-evaluation-harness, with a formula as its model."""
