"""How terms read prompts, for any process: encoders, and what they have read."""
