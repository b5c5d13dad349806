"""Weights: a described checkpoint becomes a model in memory, on its device."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..checkpoint.description import SCORES, Description
from ..checkpoint.files import Stored, stored_tensors, weight_files
from ..checkpoint.hub import hub_answer
from ..checkpoint.reward_head import auto_class
from ..checkpoint.spec import ModelSpec
from ..errors import ModelError, first_line
from .quantized import check_packages, method_of, quantization_config, quantization_of, shrink

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(
    description: Description,
    spec: ModelSpec,
    dtype: str | None,
    device: str,
    skeleton: bool = False,
) -> Any:
    """Read the weights, in evaluation mode, on their device.

    transformers reads them: with threads, from mapped files, a tensor at a time. Where nothing has
    to be converted, tensors on the CPU are the file itself, read when they are first used.

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
        if description.config is None:
            return spec.model
        _check_attention(description.name, spec.model)
        return spec.model.eval()
    from transformers import AutoModelForCausalLM

    language = description.kind == SCORES or description.valued
    auto = AutoModelForCausalLM if language else auto_class(description.config)
    wanted = spec.dtype or dtype or "auto"
    if skeleton:
        return _skeleton(
            description, auto, wanted, spec.quantization or quantization_of(description.config)
        )
    quantization = spec.quantization and quantization_config(description.name, spec.quantization)
    check_packages(description.name, method_of(description.config))
    assert spec.path is not None
    stored = stored_tensors(
        description.name, weight_files(description.name, spec.path, description.revision)
    )
    place = _place(description.name, spec.device or device)
    cls = _class(description.config, auto)
    capped = getattr(description.config.get_text_config(), "attn_logit_softcapping", None)
    sdpa = getattr(cls, "_supports_sdpa", False) and capped is None  # which leaves the cap out
    if spec.tp_plan is not None:
        where: dict[str, Any] = {"tp_plan": spec.tp_plan}
    else:
        where = {"device_map": spec.device_map or {"": place}}
    options = {
        **where,
        "quantization_config": quantization,
        "attn_implementation": "sdpa" if sdpa else "eager",
        "use_safetensors": True,
        "trust_remote_code": spec.trust_remote_code,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # to say ourselves which they are
    }
    kind = _dtype(description.config, wanted, stored)
    special = (
        spec.device_map or spec.tp_plan or spec.trust_remote_code or method_of(description.config)
    )
    own = cls is not None and cls.config_class is type(description.config)
    if own and not special and (place != "cpu" or _converts(stored, kind)):
        # One tensor of a file is mapped at a time; from a path, transformers holds on to all files.
        source = {"config": description.config, "state_dict": stored, "dtype": kind}
        model, found = _read(description.name, spec, cls, None, {**options, **source})
    else:
        source = {"revision": description.revision or "main", "dtype": kind}
        model, found = _read(description.name, spec, auto, spec.path, {**options, **source})
    _check_found(description.name, spec, model, found)
    return model.eval()


def _place(name: str, device: str) -> str:
    """The device, if this machine has it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"{name} cannot be put on {device}: {first_line(error)}",
            "give a device that this machine has, such as cpu",
            name,
        ) from error
    return device


def _read(
    name: str, spec: ModelSpec, auto: Any, path: str | None, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """transformers' own loading; what it says of a failure becomes a ModelError."""
    from safetensors import SafetensorError

    try:
        with _quiet_unless_terminal():
            return auto.from_pretrained(path, **options)  # type: ignore[no-any-return]
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the weights of {name} do not fit: {first_line(error)}",
            "give it dtype: bfloat16, a quantization, or device_map: auto",
            name,
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        problem, cure = hub_answer(error, str(spec.path), spec.revision) or (
            f"the weights of {name} in {spec.path} cannot be read: {first_line(error)}",
            "a model is a folder (or hub id) with config.json and safetensors weights",
        )
        raise ModelError(problem, cure, name) from error


def _check_found(name: str, spec: ModelSpec, model: Any, found: dict[str, Any]) -> None:
    """Refuse weights that are missing, or have other shapes than the configuration says."""
    order = {key: place for place, key in enumerate(model.state_dict())}
    if wrong := sorted(found["mismatched_keys"], key=lambda one: order.get(one[0], len(order))):
        key, theirs, ours = wrong[0]
        more = f"; {len(wrong) - 1} more differ" if wrong[1:] else ""
        raise ModelError(
            f"the weights of {name} in {spec.path} are another model's: {key} is "
            f"{tuple(theirs)}, and config.json makes it {tuple(ours)}{more}",
            "put the config.json beside them that they were saved with",
            name,
        )
    if missing := sorted(found["missing_keys"], key=lambda key: order.get(key, len(order))):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(
            f"the weights of {name} in {spec.path} lack {missing[0]}{more}",
            "they would be random numbers; give a checkpoint of the whole model",
            name,
        )


def _skeleton(description: Description, auto: Any, wanted: str, quantization: Any) -> Any:
    own = description.config.dtype or torch.float32
    with torch.device("meta"):
        kind = own if wanted == "auto" else getattr(torch, wanted)
        model = auto.from_config(description.config, dtype=kind).eval()
    if quantization is not None:
        shrink(model, quantization)
    return model


def _dtype(config: Any, wanted: str, stored: Mapping[str, Stored]) -> torch.dtype:
    """The type to compute in: ``auto`` is what the configuration says, else the first weight."""
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    first = next((FLOATS[one.kind] for one in stored.values() if one.kind in FLOATS), None)
    return config.dtype or first or torch.float32


def _converts(stored: Mapping[str, Stored], kind: torch.dtype) -> bool:
    return any(FLOATS.get(one.kind, kind) != kind for one in stored.values())


def _class(config: Any, auto: Any) -> Any:
    """The class that transformers makes of a configuration; None where it does not know one."""
    found = auto._model_mapping.get(type(config), None)
    if not isinstance(found, (tuple, list)):
        return found
    named = getattr(config, "architectures", None) or []
    return next((cls for cls in found if cls.__name__ in named), found[0])


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
