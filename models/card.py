"""What a checkpoint is, before its weights are read: configuration and tokenizer.

Whatever is wrong with a formula's models is said here, before gigabytes are read.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelError, first_line
from .fakes import RuleReward, TableModel
from .families import refuse
from .spec import ModelSpec

SCORES, REWARD = "scores", "reward"


@dataclass(frozen=True)
class Card:
    """What is known of a model before its weights are read.

    Attributes:
        name: the declared name.
        kind: ``scores`` for a language model, ``reward`` for a classification head.
        size: rows of its vocabulary.
        tokenizer: or None, for a model in memory that works on token ids.
        config: transformers' configuration, or None for a table.
        weights: equal for models that share their weights.
        positions: the longest text it can read, or None.
        eos: the ids that end its texts.
    """

    name: str
    kind: str
    size: int
    tokenizer: Any
    config: Any
    weights: tuple[Any, ...]
    positions: int | None
    eos: frozenset[int]


def describe(name: str, spec: ModelSpec, dtype: str | None, device: str | None) -> Card:
    """Read a model's configuration and tokenizer.

    Raises:
        ModelError: nothing there, or a kind of model that cannot take part.
    """
    if isinstance(spec.model, (TableModel, RuleReward)):
        kind = SCORES if isinstance(spec.model, TableModel) else REWARD
        size = spec.model.table.shape[0]
        eos = getattr(spec.model, "eos", None)
        ends = frozenset(() if eos is None else (eos,))
        return Card(name, kind, size, _tokenizer(name, spec), None, (id(spec.model),), None, ends)
    config = spec.model.config if spec.model is not None else _config(name, spec)
    kind = _kind(name, config, spec.model)
    refuse(name, config, kind == REWARD, spec.model)
    text = config.get_text_config()
    key: tuple[Any, ...] = (id(spec.model),)
    if spec.model is None:
        place = os.path.realpath(spec.path or "") if os.path.isdir(spec.path or "") else spec.path
        mapped = str(spec.device_map or spec.device or device)
        key = (place, spec.revision, spec.dtype or dtype, mapped)
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    tokenizer = _tokenizer(name, spec)
    eos = _eos(spec, text, tokenizer)
    return Card(name, kind, text.vocab_size, tokenizer, config, key, positions, eos)


def _config(name: str, spec: ModelSpec) -> Any:
    from transformers import AutoConfig

    assert spec.path is not None
    looks_local = spec.path.startswith((".", "/", "~")) or spec.path.count("/") > 1
    if looks_local and not os.path.isdir(spec.path):
        raise ModelError(
            f"there is no folder {spec.path} for the model {name}",
            "give a folder that save_pretrained wrote, or a hub id",
            name,
        )
    try:
        return AutoConfig.from_pretrained(
            spec.path,
            revision=spec.revision or "main",
            trust_remote_code=spec.trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        where = "has no readable config.json" if os.path.isdir(spec.path) else "cannot be found"
        raise ModelError(
            f"the model {name}: {spec.path} {where}: {first_line(error)}",
            "give a folder that save_pretrained wrote, or a hub id that is cached or reachable",
            name,
        ) from error


def _tokenizer(name: str, spec: ModelSpec) -> Any:
    source = spec.tokenizer if spec.tokenizer is not None else spec.path
    if source is None or not isinstance(source, (str, os.PathLike)):
        return source
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if os.path.isdir(source) and not any((Path(source) / file).is_file() for file in files):
        return None
    from transformers import AutoTokenizer

    revision = spec.revision if source == spec.path else None
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=revision or "main", trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the tokenizer of {name} in {source} cannot be read: {first_line(error)}",
            "name one with tokenizer: …",
            name,
        ) from error


def _eos(spec: ModelSpec, config: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that the checkpoint itself calls the end: configurations and tokenizer."""
    from transformers import GenerationConfig

    generation = getattr(spec.model, "generation_config", None)
    if spec.path is not None:
        with contextlib.suppress(OSError, ValueError):
            generation = GenerationConfig.from_pretrained(
                spec.path, revision=spec.revision or "main"
            )
    found: set[int] = set()
    for source in (generation, config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids = value if isinstance(value, (list, tuple)) else [value]
        found |= {int(token) for token in ids if token is not None}
    return frozenset(found)


def _kind(name: str, config: Any, model: Any) -> str:
    architectures = getattr(config, "architectures", None) or []
    names = [type(model).__name__] if model is not None else list(architectures)
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder-decoder ({config.model_type}), which has no text so far to "
            "share with the other terms",
            "use a causal language model",
            name,
        )
    if any(item.endswith("ForSequenceClassification") for item in names):
        return REWARD
    causal = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    if any(item.endswith(causal) for item in names):
        return SCORES
    raise ModelError(
        f"{name} is a {' or '.join(names) or config.model_type}, neither a causal language model "
        "nor a classifier",
        "its config.json names the class under architectures",
        name,
    )
