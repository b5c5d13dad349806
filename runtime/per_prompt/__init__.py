"""Parameters that are others for each prompt: gates on a hidden state, weights by perplexity."""
