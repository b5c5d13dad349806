"""A described checkpoint becomes a model in memory, on its device."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers.utils import logging

from ..checkpoint.architectures import language_auto
from ..checkpoint.description import SCORES, Description
from ..checkpoint.files import StoredTensor, stored_tensors, weight_files
from ..checkpoint.hub import hub_error
from ..checkpoint.reward_head import auto_class, mapped_class
from ..checkpoint.spec import ModelSpec
from ..errors import ModelError, first_line, read_by_a_library
from . import quantized, towers
from .unpack import weights_source

SMALL = 10_000_000  # numbers of a model that any machine has room for
_INSTALL = re.compile(r"pip install ([\w.-]+)")  # in transformers' messages
_NUMBER = re.compile(r"\.\d+\.")
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(
    description: Description,
    spec: ModelSpec,
    dtype: str | None,
    device: str,
    skeleton: bool = False,
) -> Any:
    """Read the weights, in evaluation mode, on their device; a model in memory stays as it is.

    transformers reads them with threads, from mapped files, a tensor at a time. Without a
    conversion, tensors on the CPU are the mapped file, read when they are first used.

    Args:
        description, spec: of the checkpoint; from ``describe``.
        dtype, device: where the spec names none; no dtype is the checkpoint's own.
        skeleton: the model's shapes alone, on torch's meta device; no weights are read.

    Raises:
        ModelError: no safetensors, or weights that are not what the configuration says.
    """
    if spec.model is not None:
        if description.config is None:  # a table or a function
            return spec.model
        _check_attention(description.name, spec.model)
        return spec.model  # in its owner's mode
    dtype = spec.dtype or dtype or "auto"
    if skeleton:
        return _skeleton(description.config, _auto(description), dtype, spec.quantization)
    return load_part(description, spec, dtype, spec.device or device)


def load_part(
    description: Description,
    spec: ModelSpec,
    dtype: str,
    device: str,
    left_out: Sequence[str] | None = None,
) -> Any:
    """Read a checkpoint's weights, but for those of some modules.

    Args:
        description, spec: as of ``load_model``.
        dtype, device: the spec's, where it says them.
        left_out: paths of modules, which are None in the model; by default the towers, which a
            forward of text alone does not call.

    Raises:
        ModelError: as of ``load_model``.
    """
    name, config, auto = description.name, description.config, _auto(description)
    quantization = spec.quantization and quantized.quantization_config(name, spec.quantization)
    method = quantized.method_of(config)
    quantized.check_packages(name, method)
    path = weights_source(name, spec, _dtype(config, dtype, {}))
    stored = stored_tensors(name, weight_files(name, path, description.revision))
    device = _available(name, device)
    cls, weight_dtype = mapped_class(auto, config), _dtype(config, dtype, stored)
    own_code = spec.trust_remote_code and getattr(config, "auto_map", None)
    sized = not (method or quantization or spec.trust_remote_code)
    in_parts = config.get_text_config() is not config and not own_code
    if left_out is None and (sized or in_parts):
        with read_by_a_library(partial(_unreadable, name, spec)):
            skeleton = _skeleton(config, auto, dtype, None)
        if sized:
            _check_size(name, spec, skeleton, stored)
        left_out = towers.paths(skeleton)
    made = towers.without(cls, left_out) if left_out else auto
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    sdpa = getattr(cls, "_supports_sdpa", False) and not capped  # sdpa has no soft cap
    options = {
        "dtype": weight_dtype,
        "quantization_config": quantization,
        "attn_implementation": "sdpa" if sdpa else "eager",
        "use_safetensors": True,
        "trust_remote_code": spec.trust_remote_code,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported by ``_check_loaded``
    }
    if spec.tp_plan is not None:
        options["tp_plan"] = spec.tp_plan
    else:
        options["device_map"] = spec.device_map or {"": device}
    if left_out:  # the class is read directly
        options |= {"config": config}
    special = spec.device_map or spec.tp_plan or spec.trust_remote_code or method
    plain = not special and cls is not None and cls.config_class is type(config)
    dtypes = {FLOATS.get(item.dtype, weight_dtype) for item in stored.values()}
    if plain and (device != "cpu" or dtypes - {weight_dtype}):
        # One tensor of a file is mapped at a time; given a path, all files stay mapped.
        options |= {"config": config, "state_dict": stored}
        model, report = _read(name, spec, made if left_out else cls, None, options)
    else:
        options |= {"revision": description.revision or "main"}
        model, report = _read(name, spec, made, path, options)
    _check_loaded(name, spec, model, report)
    if left_out:
        model.__class__ = cls
        towers.mark_unread(model, left_out, weight_dtype)
    return model.eval()


def _auto(description: Description) -> Any:
    """The auto class that loads a checkpoint."""
    language = description.kind == SCORES or description.value_head
    return (language_auto if language else auto_class)(description.config)


def _check_size(
    name: str, spec: ModelSpec, skeleton: Any, stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse a configuration of a far larger model, before there is one in memory."""
    made = sum(parameter.numel() for parameter in skeleton.parameters())
    held = sum(tensor.numbers for tensor in stored.values())
    if made > 2 * held + SMALL:
        problem = f"config.json of {name} in {spec.path} makes a model of {made:,} numbers"
        cure = "put the config.json beside the weights that they were saved with"
        raise ModelError(f"{problem}, and its weights are {held:,}", cure, name)


def _available(name: str, device: str) -> str:
    """The device, if this machine has it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        problem = f"{name} cannot be put on {device}: {first_line(error)}"
        cure = "give a device that this machine has, such as cpu"
        raise ModelError(problem, cure, name) from error
    return device


def _read(
    name: str, spec: ModelSpec, auto: Any, path: str | None, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """transformers' own loading, and its report; a failure becomes a ModelError."""
    with read_by_a_library(partial(_unreadable, name, spec)), _quiet_unless_terminal():
        return auto.from_pretrained(path, **options)  # type: ignore[no-any-return]


def _unreadable(name: str, spec: ModelSpec, error: BaseException) -> ModelError:
    if isinstance(error, torch.OutOfMemoryError):
        problem = f"the weights of {name} do not fit: {first_line(error)}"
        cure = "give it dtype: bfloat16, a quantization, or device_map: auto"
        return ModelError(problem, cure, name)
    if isinstance(error, ImportError) and (package := _INSTALL.search(str(error))):
        problem = f"{name} needs {package[1]}, which is not installed"
        return ModelError(problem, f"pip install {package[1]}", name)
    problem = f"the weights of {name} in {spec.path} cannot be read: "
    other = problem, "a model is a folder (or hub id) with config.json and safetensors weights"
    return hub_error(error, str(spec.path), spec.revision, name, other)


def _check_loaded(name: str, spec: ModelSpec, model: Any, report: dict[str, Any]) -> None:
    """Refuse weights that are missing, or have other shapes than the configuration says."""
    order = {key: i for i, key in enumerate(model.state_dict())}
    if wrong := sorted(report["mismatched_keys"], key=lambda item: order.get(item[0], len(order))):
        key, stored, expected = wrong[0]
        more = f"; {len(wrong) - 1} more differ" if wrong[1:] else ""
        shapes = f"{key} is {tuple(stored)}, and config.json makes it {tuple(expected)}{more}"
        problem = f"the weights of {name} in {spec.path} are another model's: {shapes}"
        cure = "put the config.json beside them that they were saved with"
        raise ModelError(problem, cure, name)
    if missing := sorted(report["missing_keys"], key=lambda key: order.get(key, len(order))):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        problem = f"the weights of {name} in {spec.path} lack {missing[0]}{more}"
        cure = "they would be random numbers; give a checkpoint of the whole model"
        raise ModelError(problem, cure, name)
    if left_out := sorted(_layers_left_out(report["unexpected_keys"], order), key=str):
        problem = f"the weights of {name} in {spec.path} hold {left_out[0]}"
        problem += ", of a layer that config.json leaves out"
        raise ModelError(problem, "put the config.json beside them that they were saved with", name)


def _layers_left_out(unexpected: Iterable[str], expected: Iterable[str]) -> set[str]:
    """What is as other weights of the model are, but of another layer."""
    kinds = {_NUMBER.sub(".0.", key) for key in expected}
    return {key for key in unexpected if _NUMBER.sub(".0.", key) in kinds}


def _skeleton(config: Any, auto: Any, dtype: str, quantization: Any) -> Any:
    with torch.device("meta"):
        model = auto.from_config(config, dtype=_dtype(config, dtype, {})).eval()
    towers.take_out_towers(model, _dtype(config, dtype, {}))
    if (quantization := quantization or quantized.quantization_of(config)) is not None:
        quantized.pack_skeleton(model, quantization)
    return model


def _dtype(config: Any, dtype: str, stored: Mapping[str, StoredTensor]) -> torch.dtype:
    """The type to compute in: for ``auto``, the configuration's, or that of the first weight."""
    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    first = next((FLOATS[item.dtype] for item in stored.values() if item.dtype in FLOATS), None)
    return config.dtype or first or torch.float32


def _check_attention(name: str, model: Any) -> None:
    kind = model.config.get_text_config()._attn_implementation
    if kind not in ("sdpa", "eager"):
        problem = f"{name} was loaded with attn_implementation={kind!r}"
        cure = 'load it with attn_implementation="sdpa"'
        raise ModelError(f"{problem}, which takes no mask per row", cure, name)


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """No loading bar from transformers, unless there is a terminal."""
    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
