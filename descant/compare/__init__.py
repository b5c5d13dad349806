"""Two runs compared: win rates by a reward model, or by a judge."""
