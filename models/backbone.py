"""The part of a model under its output head, which gives hidden states."""

from __future__ import annotations

from typing import Any


def backbone_of(model: Any) -> Any:
    """transformers' base model; where that is the model itself, what has the embedding of tokens.

    Llama 4's models are such ones.
    """
    network = model.base_model
    if network is not model or model.get_output_embeddings() is None:
        return network
    embedding = model.get_input_embeddings()
    holders = (module for module in model.modules() if embedding in module.children())
    return next(holders, model)
