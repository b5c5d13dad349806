"""An adapter as weights of its own: peft's own merge into a copy of its base, and a trial of it.

Whatever peft can merge can be had, so long as the merged weights give what the adapter gives: on a
few tokens both forwards are compared, for a merge may be another model (into tied weights, say).
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import shortened
from ...extras import pip_install
from ..errors import ModelError, read_by_a_library
from .fields import is_set
from .lora import WEIGHTS, read_config
from .patterns import resolved

TOKENS = 12
MISSING = "missing adapter keys"  # in peft's warning
T = TypeVar("T")
_TRAINED_ON = "give the base that it was trained on"
_AS_ROWS = "leave merge out, if it is LoRA: rows do what peft's forward does"


@torch.no_grad()
def merged(name: str, base: Any, folder: Path, in_memory: bool = False) -> Any:
    """The base's weights with an adapter of any kind that peft merges.

    Args:
        name: of the adapter, as declared.
        base: the model, which becomes the merged one; a copy does where it is ``in_memory``.
        folder: as peft's ``save_pretrained`` wrote it.

    Raises:
        ModelError: no peft, an adapter that is not of this base, one that peft cannot merge, or a
            merge that is another model.
    """
    if find_spec("peft") is None:
        problem = f"to merge the adapter {name} needs peft"
        raise ModelError(problem, pip_install("train"), name, "adapters")
    config = read_config(name, folder)
    _check_installed(name, config)
    if any(parameter.is_meta for parameter in base.parameters()):
        problem = f"the adapter {name} is to be merged into a base that is not in memory"
        raise ModelError(problem, "load the base on one device", name, "adapters")
    base = copy.deepcopy(base) if in_memory else base
    parts = (*base.named_modules(), *base.named_parameters())
    changes = resolved(name, config, [part for part, _ in parts if part])
    embedding = base.get_input_embeddings()
    head, device = base.get_output_embeddings(), embedding.weight.device
    tied = head is not None and head.weight is embedding.weight
    ids = (torch.arange(TOKENS, device=device) * 37 + 5) % embedding.num_embeddings
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted, expected = _tried(
            name, folder, partial(_with_peft, base, folder, changes, ids), _TRAINED_ON
        )
    if lacking := [line for item in told if MISSING in (line := str(item.message))]:
        problem = f"the adapter {name} lacks weights; peft says: {lacking[0]}"
        raise ModelError(problem, "save it again with peft's save_pretrained", name, "adapters")
    _check_all_used(name, adapted, folder)
    if tied:
        _check_ends(name, adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _tried(name, folder, adapted.merge_and_unload, _AS_ROWS)
    _compare(name, model, _outputs(model, ids), expected)
    return model.requires_grad_(False).eval()


def _check_installed(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a kind or a field that the installed peft has not: it would leave the field out."""
    from peft import __version__
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    kind, cure = config["peft_type"], "install a peft that has it, such as the one that saved it"
    if kind not in CONFIGS:
        problem = f"the adapter {name} is {kind}, which the installed peft {__version__} has not"
        raise ModelError(problem, cure, name, "adapters")
    known = {field.name for field in dataclasses.fields(CONFIGS[kind])}
    for field in config:
        if field not in known and is_set(config, field):
            problem = f"the adapter {name} has {field}, which the installed peft {__version__}"
            raise ModelError(f"{problem} has not for {kind}", cure, name, "adapters")


def _tried(name: str, folder: Path, action: Callable[[], T], cure: str) -> T:
    """Call peft; its error becomes a ModelError."""

    def failed(error: BaseException) -> ModelError:
        told = shortened(" ".join(str(error).split()))
        return ModelError(
            f"the adapter {name} in {folder} cannot be merged by peft: {told}",
            cure,
            name,
            "adapters",
        )

    with read_by_a_library(failed):
        return action()


def _with_peft(
    base: Any, folder: Path, changes: Mapping[str, Any], ids: Tensor
) -> tuple[Any, tuple[Tensor, Tensor]]:
    """peft's own model of it, with changes of its configuration, and what its forward gives."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    for field, value in changes.items():
        setattr(config, field, value)
    adapted = PeftModel.from_pretrained(
        base, str(folder), config=config, torch_device=str(ids.device)
    ).eval()
    return adapted, _outputs(adapted, ids)


def _check_all_used(name: str, adapted: Any, folder: Path) -> None:
    """Refuse an adapter with weights that its base has no place for; peft leaves them out."""
    from peft.utils.save_and_load import set_peft_model_state_dict

    weights = load_file(folder / WEIGHTS)
    if unexpected := set_peft_model_state_dict(adapted, weights).unexpected_keys:
        problem = (
            f"the adapter {name} has weights for {unexpected[0]}, which its base does not have"
        )
        raise ModelError(problem, _TRAINED_ON, name, "adapters")


def _check_ends(name: str, adapted: Any) -> None:
    """Refuse a merge into an embedding that is the head too; peft's tokens are of both anyway."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network, kind = adapted.get_base_model(), adapted.peft_config["default"].peft_type
    ends = network.get_input_embeddings(), network.get_output_embeddings()
    if kind != "TRAINABLE_TOKENS" and any(isinstance(end, BaseTunerLayer) for end in ends):
        problem = f"the adapter {name} is on the embedding or the head of its base, which are one"
        raise ModelError(f"{problem}: merged, it would change both", _AS_ROWS, name, "adapters")


def _outputs(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The model's last hidden states and its head's numbers for a few tokens, float32."""
    out = model(input_ids=ids[None], output_hidden_states=True)
    return out.hidden_states[-1].float(), out.logits.float()


def _compare(
    name: str, model: Any, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]
) -> None:
    """Refuse a merge that gives other numbers than the adapter; rounding passes."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    limit = 1e-3 if dtypes <= {torch.float32, torch.float64} else 0.05
    errors = [
        ((one - two).norm() / two.norm()).item() for one, two in zip(found, expected, strict=True)
    ]
    if all(error < limit for error in errors):
        return
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    why = "; its base's head is its embedding, and a merge changes both" if tied else ""
    problem = f"merged, the adapter {name} is another model than peft's: {max(errors):.0%} off{why}"
    raise ModelError(problem, _AS_ROWS, name, "adapters")
