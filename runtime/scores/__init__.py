"""Scores of one step: operators, stages, log-probabilities, noise. Tensors in, tensors out."""
