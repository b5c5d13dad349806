"""What a checkpoint is, by its configuration and tokenizer.

Errors in a formula's models are raised here, before gigabytes of weights are read.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, GenerationMixin
from transformers.utils.hub import extract_commit_hash

from ...errors import quoted
from ..errors import ModelError, first_line, read_by_a_library
from ..functions import FunctionReward
from ..tables import RuleReward, TableModel
from .architectures import check_architecture, model_class
from .files import folder_identity
from .gguf import check_own_tokenizer, described, gguf_file, is_gguf
from .hub import cached, hub_error
from .reward_head import class_names, full_text_reason, is_reward, own_code
from .spec import ModelSpec

SCORES, REWARD = "scores", "reward"
GENERATION = "generation_config.json"
LAYERS = 1000  # a model's at most; to make the modules of more takes minutes, without any weights
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
    "chat_template.jinja",
)  # fmt: skip
_ABSENCES = ("missing_entries", "connection_errors")


@dataclass(frozen=True)
class Description:
    """What is known of a model before its weights are read.

    Attributes:
        name: the declared name.
        kind: ``scores`` for a language model, ``reward`` for a classification head.
        size: rows of its vocabulary.
        tokenizer: or None, for a model in memory that works on token ids.
        config: transformers' configuration, or None for a table or a function.
        weights: equal for models that share their weights.
        positions: the longest text it can read, or None.
        eos: the ids that end its texts.
        full_text_reason: for a reward, why it reads every text in full; "" where it need not.
        value_head: whether it is a language model that is a reward by its value head.
        revision: the commit that everything is read from, for a hub id; None for a folder.
        gguf: whether the weights are a GGUF file's, unpacked when they are loaded.
    """

    name: str
    kind: str
    size: int
    tokenizer: Any
    config: Any
    weights: tuple[Any, ...]
    positions: int | None
    eos: frozenset[int]
    full_text_reason: str = ""
    value_head: bool = False
    revision: str | None = None
    gguf: bool = False


def describe(name: str, spec: ModelSpec, dtype: str | None, device: str | None) -> Description:
    """Read a model's configuration and tokenizer.

    Raises:
        ModelError: nothing there, or a kind of model that cannot take part.
    """
    if isinstance(spec.model, FunctionReward):
        return Description(name, REWARD, 0, None, None, (id(spec.model),), None, frozenset())
    if isinstance(spec.model, (TableModel, RuleReward)):
        kind = SCORES if isinstance(spec.model, TableModel) else REWARD
        size, tokenizer = len(spec.model.table), _tokenizer(name, spec)
        eos = getattr(spec.model, "eos", None)
        ends = frozenset(() if eos is None else (eos,))
        return Description(name, kind, size, tokenizer, None, (id(spec.model),), None, ends)
    folder, revision = (None, None) if spec.model is not None else _folder(name, spec)
    if revision is not None:  # a branch may move between one file and the next
        spec = spec.model_copy(update={"revision": revision})
    gguf = is_gguf(spec.path)
    if gguf:
        if spec.tokenizer is None:
            check_own_tokenizer(name, str(spec.path), str(folder))
        spec = spec.model_copy(update={"path": folder, "revision": None})
    config = spec.model.config if spec.model is not None else _config(name, spec)
    kind = _kind(name, config, spec)
    reason = full_text_reason(name, config, spec.model) if kind == REWARD else ""
    if not reason:
        check_architecture(name, config, kind == REWARD, spec.model)
    text = config.get_text_config()
    key: tuple[Any, ...] = (id(spec.model),)
    if folder is not None:
        devices = str(spec.tp_plan or spec.device_map or spec.device or device)
        declared = spec.dtype or dtype or "auto"
        number = str(config.dtype if declared == "auto" else declared).removeprefix("torch.")
        key = (*folder_identity(folder), number, devices)
        key += (str(spec.quantization), spec.trust_remote_code)
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    tokenizer = _tokenizer(name, spec)
    eos = _eos(name, spec, text, tokenizer)
    return Description(
        name, kind, text.vocab_size, tokenizer, config, key, positions, eos, reason,
        revision=revision, gguf=gguf,
    )  # fmt: skip


def _folder(name: str, spec: ModelSpec) -> tuple[str, str | None]:
    """The folder of a checkpoint, local or in the hub's cache, and its commit on the hub."""
    assert spec.path is not None
    if is_gguf(spec.path):
        return described(gguf_file(name, spec.path, spec.revision)), None
    looks_local = spec.path.startswith((".", "/", "~")) or spec.path.count("/") > 1
    if looks_local and not os.path.isdir(spec.path):
        searched = "" if os.path.isabs(spec.path) else ", beside the run file or from here"
        problem = f"there is no folder {spec.path} for the model {name}{searched}"
        raise ModelError(
            problem, "give a folder that save_pretrained wrote, a .gguf file or a hub id", name
        )
    if os.path.isdir(spec.path):
        return spec.path, None
    try:
        file = cached(spec.path, "config.json", spec.revision)
    except OSError as error:
        cure = "give a folder that save_pretrained wrote, or a hub id that is cached or reachable"
        other, what = (f"{spec.path} cannot be found: ", cure), f"the model {name}: "
        raise hub_error(error, spec.path, spec.revision, name, other, what) from error
    if file is None:
        problem = f"the model {name}: {spec.path} has no config.json"
        raise ModelError(problem, "give the id of a transformers checkpoint", name)
    return os.path.dirname(file), extract_commit_hash(file, None)


def _config(name: str, spec: ModelSpec) -> Any:
    assert spec.path is not None

    def unreadable(error: BaseException) -> ModelError:
        if "trust_remote_code" in str(error):
            problem = f"{name} needs code of its own from {spec.path}, which is not run"
            cure = "say trust_remote_code: true with it, if you have read that code and trust it"
            return ModelError(problem, cure, name)
        problem = f"the model {name}: {spec.path} has no readable config.json: {first_line(error)}"
        cure = "give a folder that save_pretrained wrote, or the id of a transformers checkpoint"
        return ModelError(problem, cure, name)

    with read_by_a_library(unreadable):
        config = AutoConfig.from_pretrained(
            spec.path, revision=spec.revision or "main", trust_remote_code=spec.trust_remote_code
        )
        _check_config(config)
        return config


def _check_config(config: Any) -> None:
    """Refuse what transformers takes into a configuration and no model is made of.

    Raises:
        ValueError: names the key.
    """
    names, text = config.architectures, config.get_text_config()
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"architectures is {quoted(names)}, not the names of classes")
    if not isinstance(config.dtype, (torch.dtype, type(None))):
        raise ValueError(f"dtype is {quoted(config.dtype)}, not the name of one")
    for key, most in (("num_hidden_layers", LAYERS), ("max_position_embeddings", sys.maxsize)):
        number = getattr(text, key, None)
        stated = not isinstance(getattr(type(text), key, None), property)  # XLNet's is -1
        if isinstance(number, int) and stated and not 1 <= number <= most:
            raise ValueError(f"{key} is {quoted(number)}, and may be 1 to {most}")


def _tokenizer(name: str, spec: ModelSpec) -> Any:
    source = spec.tokenizer if spec.tokenizer is not None else spec.path
    if source is None and spec.processor is not None:
        source = getattr(spec.processor, "tokenizer", spec.processor)
    if source is None or not isinstance(source, (str, os.PathLike)):
        return source
    files = [file for file in TOKENIZER if (Path(source) / file).is_file()]
    if os.path.isdir(source) and not set(files) & {*TOKENIZER[:4]}:
        return None
    revision = spec.revision if source == spec.path else None

    def unreadable(error: BaseException) -> ModelError:
        here = f"{' and '.join(files)} of {source}" if files else source
        other = f"{here} cannot be read: ", "name one with tokenizer: …"
        return hub_error(error, str(source), revision, name, other, f"the tokenizer of {name}: ")

    with read_by_a_library(unreadable):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision or "main", trust_remote_code=spec.trust_remote_code
        )
        tokenizer("a")  # some of what is wrong shows only here
        return tokenizer


def _eos(name: str, spec: ModelSpec, config: Any, tokenizer: Any) -> frozenset[int]:
    """Every EOS id of the checkpoint: of its configurations and its tokenizer."""
    generation = getattr(spec.model, "generation_config", None)
    if spec.path is not None:
        generation = _generation_config(name, spec)
    values = [getattr(source, "eos_token_id", None) for source in (generation, config, tokenizer)]
    ids = (value if isinstance(value, (list, tuple)) else [value] for value in values)
    ends = [token for token in chain(*ids) if token is not None]
    if wrong := [token for token in ends if type(token) is not int]:
        problem = f"the model {name}: its eos_token_id is {quoted(wrong[0])}, which is no token id"
        raise ModelError(problem, f"correct it in {GENERATION} or config.json", name)
    return frozenset(ends)


def _generation_config(name: str, spec: ModelSpec) -> Any:
    """What a checkpoint says of generation; None where it says nothing."""
    with contextlib.suppress(OSError):
        if not cached(str(spec.path), GENERATION, spec.revision, _ABSENCES):
            return None

    def unreadable(error: BaseException) -> ModelError:
        problem = f"the model {name}: {GENERATION} of {spec.path} cannot be read: "
        return ModelError(problem + first_line(error), "correct it, or remove it", name)

    with read_by_a_library(unreadable):
        return GenerationConfig.from_pretrained(spec.path, revision=spec.revision or "main")


def _kind(name: str, config: Any, spec: ModelSpec) -> str:
    names = class_names(config, spec.model)
    code = own_code(config)
    if spec.model is None and code is not None and not spec.trust_remote_code:
        problem = f"{name} is a {names[0]}, which is code of its own ({code[1]}) and is not run"
        cure = "say trust_remote_code: true with it, if you have read that code and trust it"
        raise ModelError(problem, cure, name)
    if is_reward(config, spec.model):
        return REWARD
    if config.is_encoder_decoder:
        problem = f"{name} is an encoder-decoder ({config.model_type}), which has no text so far"
        problem += " to share with the other terms"
        raise ModelError(problem, "use a causal language model", name)
    causal = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    if any(item.endswith(causal) for item in names) or hasattr(spec.model, "v_head"):
        return SCORES
    cls = model_class(config, False)  # of another name, as Idefics' ForVisionText2Text
    if cls is not None and cls.__name__ in names and issubclass(cls, GenerationMixin):
        return SCORES
    shown = " or ".join(names[:1] if spec.model is not None else names) or config.model_type
    cure = "its config.json names the class under architectures"
    problem = f"{name} is a {shown}, neither a causal language model nor a classifier"
    raise ModelError(problem, cure, name)
