"""Two runs compared: by their scores, or by who wins by a reward model or a judge."""
