"""Parameters that maximise scores of generated text, searched by optuna."""
