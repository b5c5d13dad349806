"""Quantisation: a spec's mapping as transformers' own configuration, and what it needs installed.

The words are those of ``quantization_config`` in a checkpoint's config.json. Weights are packed and
unpacked by the packages that transformers calls; nothing here knows a format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ...grammar import did_you_mean
from ..errors import ModelError, first_line

# What each method imports, and what pip calls it. Others say themselves what they lack.
PACKAGES = {
    "torchao": {"torchao": "torchao"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
}


def quantization_config(name: str, given: Mapping[str, Any]) -> Any:
    """transformers' configuration of a quantisation.

    Args:
        name: the declared model.
        given: as config.json writes it: ``quant_method`` and that method's own options.

    Raises:
        ModelError: no such method or option, or a package that is not installed.
    """
    from transformers.quantizers import auto

    where = f"the quantization of {name}"
    method, known = _method(given), _known(auto)
    if method is None:
        raise ModelError(
            f"{where} has no quant_method",
            "write it as config.json does: quantization: {quant_method: torchao, …}",
            name,
        )
    if method not in known:
        problem = f"{where}: there is no quant_method {method}"
        raise ModelError(problem, did_you_mean(method, known), name)
    check_packages(name, method)
    if method == "bitsandbytes" and not (given.get("load_in_8bit") or given.get("load_in_4bit")):
        raise ModelError(f"{where} says no width", "add load_in_8bit: true or load_in_4bit", name)
    try:
        made = auto.AutoQuantizationConfig.from_dict(dict(given))
    except (ImportError, ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
        problem = f"{where} cannot be read: {first_line(error)}"
        raise ModelError(problem, "its options are those of transformers", name) from error
    if unknown := [key for key in given if not hasattr(made, key)]:
        options = [key for key in vars(made) if not key.startswith("_")]
        problem = f"{where}: {method} has no option {unknown[0]}"
        raise ModelError(problem, did_you_mean(unknown[0], options), name)
    return made


def check_packages(name: str, method: str | None) -> None:
    """Refuse a model whose quantisation needs a package that is not installed."""
    if missing := lacking(method):
        raise ModelError(
            f"{name} is quantised with {method}, which needs {' and '.join(missing)}",
            f"pip install {' '.join(missing)}",
            name,
            "gptq",
        )


def lacking(method: str | None) -> list[str]:
    """The packages of a method that are not installed."""
    needed = PACKAGES.get(method or "", {})
    return [package for module, package in needed.items() if not _installed(module)]


def quantization_of(config: Any) -> Mapping[str, Any] | None:
    """What a checkpoint says of its own quantisation, as config.json writes it."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        found = getattr(config.get_text_config(), "quantization_config", None)
    return found if found is None or isinstance(found, Mapping) else found.to_dict()


def method_of(config: Any) -> str | None:
    """The method that a checkpoint is quantised with already, or None."""
    given = quantization_of(config)
    return None if given is None else _method(given)


def shrink(model: Any, given: Mapping[str, Any]) -> None:
    """Give a skeleton's linear layers the bytes that they will take, so that a plan can count them.

    Widths come from the configuration; scales are counted at two bytes a group. Where it names no
    width, layers are left as they are.
    """
    bits, group = _bits(given), _group(given)
    head = model.get_output_embeddings()
    skipped = given.get("modules_to_not_convert") or given.get("ignore") or ()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is head or bits is None:
            continue
        if any(skip in path for skip in skipped):
            continue
        numbers = module.weight.numel()
        groups = numbers / (group or module.in_features)
        packed = torch.empty(math.ceil(numbers * bits / 8 + 2 * groups), dtype=torch.uint8)
        module.weight = nn.Parameter(packed.to("meta"), requires_grad=False)


def _method(given: Mapping[str, Any]) -> str | None:
    if given.get("load_in_8bit") or given.get("load_in_4bit"):
        return "bitsandbytes"
    method = given.get("quant_method")
    return None if method is None else str(getattr(method, "value", method))


def _known(auto: Any) -> list[str]:
    names = (re.sub(r"^(bitsandbytes)_.*", r"\1", n) for n in auto.AUTO_QUANTIZATION_CONFIG_MAPPING)
    return list(dict.fromkeys(names))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def _bits(given: Mapping[str, Any]) -> float | None:
    if given.get("load_in_4bit") or given.get("load_in_8bit"):
        return 4 if given.get("load_in_4bit") else 8
    if given.get("bits"):
        return float(given["bits"])
    if groups := given.get("config_groups"):
        first = next(iter(groups.values()))
        return float((first.get("weights") or {}).get("num_bits") or 16)
    kind = str(((given.get("quant_type") or {}).get("default") or {}).get("_type", ""))
    found = re.search(r"(?:Int|Float)(\d)", kind)
    return float(found[1]) if found else None


def _group(given: Mapping[str, Any]) -> int | None:
    size = given.get("group_size")
    return size if isinstance(size, int) and size > 0 else None
