"""Measures of completions: rewards, repetition, coherence; and intervals of means."""

from .rewards import score

__all__ = ["score"]
