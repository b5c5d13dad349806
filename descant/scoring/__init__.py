"""Measures of completions: rewards, repetition, coherence; and intervals of means."""

from .texts import score

__all__ = ["score"]
