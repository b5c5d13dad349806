"""Parameters of a formula, found instead of guessed."""
