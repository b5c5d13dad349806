"""Evaluation for the time of a forward: a model in memory belongs to whoever made it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """In this context, modules are in evaluation mode; each has its own mode again after it.

    Dropout, and gradient checkpointing with it, are off whatever the owner does between forwards.

    Args:
        modules: all of a model, as ``model.modules()`` has them.
    """
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
