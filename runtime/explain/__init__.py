"""What is told of a plan, a prompt and a chosen token."""
