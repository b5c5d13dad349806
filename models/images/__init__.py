"""Images in prompts: where they come from, and what a model's processor makes of them."""
