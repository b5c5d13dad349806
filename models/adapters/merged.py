"""An adapter as weights of its own: peft's own merge into a copy of its base, and a trial of it.

Whatever peft can merge can be had, so long as the merged weights give what the adapter gives: on a
few tokens both forwards are compared, for a merge may be another model (into tied weights, say).
"""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError, first_line
from .lora import WEIGHTS

TOKENS = 12
MISSING = "missing adapter keys"  # in peft's warning
FAULTS = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ImportError,
    NotImplementedError,
)  # fmt: skip
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
        raise ModelError(problem, 'pip install "descant[train]"', name, "adapters")
    base = copy.deepcopy(base) if in_memory else base
    embedding = base.get_input_embeddings()
    device = embedding.weight.device
    ids = (torch.arange(TOKENS, device=device) * 37 + 5) % embedding.num_embeddings
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            adapted = _with_peft(name, base, folder, str(device))
            expected = _outputs(adapted, ids)
            model = adapted.merge_and_unload()
        if lacking := [line for item in told if MISSING in (line := first_line(item.message))]:
            problem = f"the adapter {name} lacks weights; peft says: {lacking[0]}"
            raise ModelError(problem, "save it again with peft's save_pretrained", name, "adapters")
    except FAULTS as error:
        if isinstance(error, ModelError):
            raise
        problem = f"the adapter {name} cannot be merged by peft: {first_line(error)}"
        raise ModelError(problem, _AS_ROWS, name, "adapters") from error
    _compare(name, model, _outputs(model, ids), expected)
    return model.requires_grad_(False).eval()


def _with_peft(name: str, base: Any, folder: Path, device: str) -> Any:
    """peft's own model of it; an adapter that lacks weights, or has more, is refused."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.save_and_load import set_peft_model_state_dict

    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    adapted = PeftModel.from_pretrained(base, str(folder), torch_device=device).eval()
    again = set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS, device=device))
    if again.unexpected_keys:
        key = again.unexpected_keys[0]
        problem = f"the adapter {name} has weights for {key}, which its base does not have"
        raise ModelError(problem, "give the base that it was trained on", name, "adapters")
    network, kind = adapted.get_base_model(), adapted.peft_config["default"].peft_type
    ends = (network.get_input_embeddings(), network.get_output_embeddings()) if tied else ()
    if kind != "TRAINABLE_TOKENS" and any(isinstance(end, BaseTunerLayer) for end in ends):
        problem = f"the adapter {name} is on the embedding or the head of its base, which are one"
        raise ModelError(f"{problem}: merged, it would change both", _AS_ROWS, name, "adapters")
    return adapted


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
