"""What a terminal is shown of a plan, a prompt and a choice."""
