"""Explanations of a plan, of a prompt, and of each chosen token."""
