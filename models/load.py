"""Weights: a described checkpoint becomes a model in memory, on its device."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .card import SCORES, Card
from .errors import ModelError, first_line
from .spec import ModelSpec


def load_model(
    card: Card, spec: ModelSpec, dtype: str | None, device: str, skeleton: bool = False
) -> Any:
    """Read the weights, in evaluation mode, on their device.

    Args:
        card: what ``describe`` found.
        spec: the declaration.
        dtype: where the spec names none; None is the checkpoint's own.
        device: where the spec names none.
        skeleton: the model's shapes alone, on torch's meta device; no weights are read.

    Raises:
        ModelError: no safetensors, or weights that are not what the configuration says.
    """
    if spec.model is not None:
        if card.config is None:
            return spec.model
        _check_attention(card.name, spec.model)
        return spec.model.eval()
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForCausalLM if card.kind == SCORES else AutoModelForSequenceClassification
    assert spec.path is not None
    _check_weights(card.name, spec.path)
    wanted = spec.dtype or dtype or "auto"
    if skeleton:
        own = card.config.dtype or torch.float32
        with torch.device("meta"):
            kind = own if wanted == "auto" else getattr(torch, wanted)
            return auto.from_config(card.config, dtype=kind).eval()
    try:
        with _quiet_unless_terminal():
            model, found = auto.from_pretrained(
                spec.path,
                revision=spec.revision or "main",
                dtype=wanted,
                device_map=spec.device_map,
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
                attn_implementation="sdpa" if _has_sdpa(card.config, auto) else "eager",
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the weights of {card.name} in {spec.path} cannot be read: {first_line(error)}",
            "a model is a folder (or hub id) with config.json and safetensors weights",
            card.name,
        ) from error
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(
            f"the weights of {card.name} in {spec.path} lack {missing[0]}{more}",
            "they would be random numbers; give a checkpoint of the whole model",
            card.name,
        )
    if spec.device_map is None:
        model = model.to(torch.device(spec.device or device))
    return model.eval()


def _check_weights(name: str, path: str) -> None:
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    unsafe = sorted(file.name for file in folder.glob("*.bin"))
    raise ModelError(
        f"the folder {path} of the model {name} has no safetensors weights"
        + (f", only {unsafe[0]}, which can run code when it is read" if unsafe else ""),
        "save it with save_pretrained(…, safe_serialization=True)" if unsafe else "",
        name,
    )


def _has_sdpa(config: Any, auto: Any) -> bool:
    cls = auto._model_mapping.get(type(config), None)
    cls = cls[0] if isinstance(cls, (tuple, list)) else cls
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)  # sdpa leaves it out
    return bool(getattr(cls, "_supports_sdpa", False)) and capped is None


def _check_attention(name: str, model: Any) -> None:
    kind = model.config.get_text_config()._attn_implementation
    if kind not in ("sdpa", "eager"):
        raise ModelError(
            f"{name} was loaded with attn_implementation={kind!r}, which takes no mask per row",
            'load it with attn_implementation="sdpa"',
            name,
        )


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """transformers draws its loading bar into logs too; a bar is for a terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
