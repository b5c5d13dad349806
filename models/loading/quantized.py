"""Quantisation: a spec's mapping as transformers' configuration, and the packages that it needs.

The options are those of ``quantization_config`` in a checkpoint's config.json. The packages that
transformers calls pack and unpack weights; no format is known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.quantizers import auto

from ..errors import ModelError, first_line, suggestion

# Modules of each method, and the pip packages they come from. Other methods check for themselves.
PACKAGES = {
    "torchao": {"torchao": "torchao"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
}


def quantization_config(name: str, options: Mapping[str, Any]) -> Any:
    """transformers' configuration of a quantisation, from options as config.json has them.

    Raises:
        ModelError: no such method or option, or a package that is not installed.
    """
    where, methods = f"the quantization of {name}", auto.AUTO_QUANTIZATION_CONFIG_MAPPING
    known = [*dict.fromkeys(re.sub(r"^(bitsandbytes)_.*", r"\1", key) for key in methods)]
    method = _method(options)
    if method is None:
        problem = f"{where} has no quant_method"
        cure = "write it as config.json does: quantization: {quant_method: torchao, …}"
        raise ModelError(problem, cure, name)
    if method not in known:
        problem = f"{where}: there is no quant_method {method}"
        raise ModelError(problem, suggestion(method, known), name)
    check_packages(name, method)
    if method == "bitsandbytes" and not _width(options):
        raise ModelError(f"{where} has no width", "add load_in_8bit: true or load_in_4bit", name)
    try:
        config = auto.AutoQuantizationConfig.from_dict(dict(options))
    except (ImportError, ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
        problem = f"{where} cannot be read: {first_line(error)}"
        raise ModelError(problem, "its options are those of transformers", name) from error
    if unknown := [key for key in options if not hasattr(config, key)]:
        known = [key for key in vars(config) if not key.startswith("_")]
        problem = f"{where}: {method} has no option {unknown[0]}"
        raise ModelError(problem, suggestion(unknown[0], known), name)
    return config


def check_packages(name: str, method: str | None) -> None:
    """Refuse a model whose quantisation needs a package that is not installed."""
    if missing := missing_packages(method):
        problem = f"{name} is quantised with {method}, which needs {' and '.join(missing)}"
        raise ModelError(problem, f"pip install {' '.join(missing)}", name, "gptq")


def missing_packages(method: str | None) -> list[str]:
    """The packages of a method that are not installed."""
    packages = PACKAGES.get(method or "", {})
    return [package for module, package in packages.items() if not _installed(module)]


def quantization_of(config: Any) -> Mapping[str, Any] | None:
    """A checkpoint's own quantisation, as config.json has it; None for none."""
    options = getattr(config, "quantization_config", None)
    if options is None:
        options = getattr(config.get_text_config(), "quantization_config", None)
    return options if options is None or isinstance(options, Mapping) else options.to_dict()


def method_of(config: Any) -> str | None:
    """The method that a checkpoint is quantised with, or None."""
    options = quantization_of(config)
    return None if options is None else _method(options)


def pack_skeleton(model: Any, options: Mapping[str, Any]) -> None:
    """Give a skeleton's linear layers the bytes that they will take, so that a plan can count them.

    Widths are the configuration's; scales are counted at two bytes a group. Without a width, layers
    stay as they are.
    """
    bits, group = _bits(options), options.get("group_size")
    group = group if isinstance(group, int) and group > 0 else None
    head = model.get_output_embeddings()
    skipped = options.get("modules_to_not_convert") or options.get("ignore") or ()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is head or bits is None:
            continue
        if any(skip in path for skip in skipped):
            continue
        numbers = module.weight.numel()
        groups = numbers / (group or module.in_features)
        packed = torch.empty(math.ceil(numbers * bits / 8 + 2 * groups), dtype=torch.uint8)
        module.weight = nn.Parameter(packed.to("meta"), requires_grad=False)


def _method(options: Mapping[str, Any]) -> str | None:
    if _width(options):
        return "bitsandbytes"
    method = options.get("quant_method")
    return None if method is None else str(getattr(method, "value", method))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent's
        return False


def _width(options: Mapping[str, Any]) -> int | None:
    """The bits that bitsandbytes packs a number into; None where the options do not say."""
    return next((bits for bits in (4, 8) if options.get(f"load_in_{bits}bit")), None)


def _bits(options: Mapping[str, Any]) -> float | None:
    if bits := _width(options) or options.get("bits"):
        return float(bits)
    if groups := options.get("config_groups"):
        first = next(iter(groups.values()))
        return float((first.get("weights") or {}).get("num_bits") or 16)
    kind = str(((options.get("quant_type") or {}).get("default") or {}).get("_type", ""))
    match = re.search(r"(?:Int|Float)(\d)", kind)
    return float(match[1]) if match else None
