"""Rewards of texts: of classifiers that read text, whole or by steps, and of Python functions."""
