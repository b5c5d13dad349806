"""Layers in few launches, in lanes: what they give, when they are used, and what the model keeps.

The operations' plain torch versions run here; ``tests/models/kernels`` shows that the kernels are
these.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import tiny_architectures as families
import torch
from checkpoints import fresh
from lane_rows import admitted
from tiny_architectures import V
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from trained_adapters import config_of, trained
from transformers import AutoModelForCausalLM

from descant.models.combinations import BARE, Combination
from descant.models.kernels import gpu
from descant.models.lanes.transformers_lane import TransformersLane
from descant.models.layers import layer as layer_file
from descant.models.layers.fused_layers import FusedLayers
from descant.models.layers.gated import gated

GPU = torch.device("cuda")
TEXTS = [[5, 9, 7, 3, 8, 6, 4, 9, 3, 11, 12, 13], [3, 8, 2, 9, 5], [4, 6]]
FAMILIES = ["llama", "mistral (window)", "qwen2", "qwen3"]
EXACT = 1e-5  # of the largest logit


def lane_of(model: Any, fused: bool = True, reads_all: bool = False) -> TransformersLane:
    """A lane as on a GPU, with its layers in few launches or by transformers' code."""
    lane = TransformersLane(model, V, reads_all)
    lane.exact_length, lane.page_size, lane.shares_prefixes = False, 8, False
    lane.live.why_masked = None
    if fused:
        lane.fused = FusedLayers(model, GPU, lane.adapters)
        assert lane.fused.why_plain is None
    lane.reserve(len(TEXTS), 64)
    return lane


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def fused_in(lane: TransformersLane, layers: int) -> Iterator[None]:
    """In this context, so many layers are computed in few launches."""
    with Counted() as counted:
        yield
    assert counted.calls["rotate_into_pages"] == layers
    assert counted.calls["add_rms_norm"] == counted.calls["gated"] == layers


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= EXACT * expected.abs().max())


def steps(
    lane: TransformersLane, count: int = 3, added: Sequence[Combination] = (BARE,) * 3
) -> list[Tensor]:
    """Logits of some steps of texts that are read anew."""
    lane.reserve(len(TEXTS), 64)
    assert admitted(lane, TEXTS, added) == [0, 1, 2]
    said = []
    for number in range(count):
        said.append(lane.logits())
        lane.feed(torch.tensor([20 + number, 30 + number, 40 + number]))
    return said


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_and_drafted_positions_are_those_of_the_plain_lane(family, kind) -> None:
    """Rows of different lengths; the first forward computes both ways."""
    model = families.model(family, dtype=kind)
    expected, last = steps(plain := lane_of(model, fused=False)), plain.logits_of_last(3)
    lane = lane_of(model)
    found = steps(lane)
    with fused_in(lane, 2):
        drafted = lane.logits_of_last(3)
    assert lane.fused.why_plain is None
    allowed = EXACT if kind is torch.float32 else 4e-2
    pairs = [*zip(found, expected, strict=True), (drafted, last)]
    for one, other in pairs:
        assert (one - other).abs().max() <= allowed * other.abs().max()
        assert kind is torch.bfloat16 or torch.equal(one.argmax(-1), other.argmax(-1))


@pytest.mark.parametrize("reads_all", [False, True])
def test_candidates_are_those_of_the_plain_lane(reads_all) -> None:
    model = families.model("llama", reward=True)
    candidates = torch.arange(3 * 11).view(3, 11) + 3
    judged = []
    for fused in (False, True):
        lane = lane_of(model, fused, reads_all)
        rows = admitted(lane, TEXTS)
        lane.rewards(candidates)
        with fused_in(lane, 2 * fused):
            judged.append(lane.rewards(candidates)[0][rows])
    assert close(*judged)


def keep(kept: list[tuple[Tensor, Tensor]], module: nn.Module, given: Any, out: Tensor) -> None:
    """A hook that keeps what a layer gives, and a copy of it."""
    kept.append((out, out.clone()))


def test_vectors_are_added_to_what_layers_give_and_nothing_kept_is_written_to() -> None:
    model = families.model("llama")
    said: list[list[Tensor]] = []
    for fused in (False, True):
        lane = lane_of(model, fused)
        kept: list[tuple[Tensor, Tensor]] = []
        number = lane.adapters.add_vector("v", {0: torch.ones(32), 1: -torch.ones(32)}, "all")
        hooks = [layer.register_forward_hook(partial(keep, kept)) for layer in model.model.layers]
        said.append(steps(lane, added=[lane.adapters.combination([(number, 2.0)])] * 3))
        for hook in hooks:
            hook.remove()
        assert len(kept) > 6 and all(torch.equal(*pair) for pair in kept)
        lane.adapters.close()
    bare = steps(lane_of(model, fused=False))
    for one, other, third in zip(*said, bare, strict=True):
        assert close(one, other) and not close(other, third)


LORA = {  # and how many of two layers are fused with it
    "attention": ({"r": 4, "target_modules": ["q_proj", "v_proj", "o_proj"]}, 2),
    "everything": ({"r": 3, "use_rslora": True, "target_modules": "all-linear"}, 2),
    "dora": ({"r": 4, "use_dora": True, "target_modules": ["k_proj"]}, 0),
}


@pytest.mark.parametrize("name", LORA)
def test_rows_with_adapters_are_those_of_the_plain_lane(name, zoo, tmp_path) -> None:
    """One adapter, two of them with weights, and a bare row, in one forward."""
    options, layers = LORA[name]
    folders = [tmp_path / str(seed) for seed in range(2)]
    for seed, folder in enumerate(folders):
        trained(zoo.path("base"), config_of("LORA", "base", **options), folder, seed=seed)
    said = []
    for fused in (False, True):
        lane = lane_of(fresh(zoo.path("base")), fused)
        lane.vocabulary = lane.model.config.vocab_size
        one, two = (lane.adapters.add(folder.name, folder) for folder in folders)
        rows = [[(one, 1.0)], [(one, 0.5), (two, -1.5)], []]
        added = [lane.adapters.combination(row) for row in rows]
        said.append(steps(lane, 2, added))
        with fused_in(lane, layers * fused):
            said[-1].append(lane.logits())
    for one, other in zip(*said, strict=True):
        assert close(one, other)


# when they are used


def test_prompts_and_what_is_not_live_go_by_transformers_code() -> None:
    lane = lane_of(families.model("llama"))
    with fused_in(lane, 0):
        admitted(lane, [TEXTS[0] * 3])
    lane.logits()
    lane.feed(torch.tensor([4]))
    lane.live.why_masked = "of a mask"
    with fused_in(lane, 0):
        lane.logits()


def test_a_module_that_somebody_looks_at_runs() -> None:
    model = families.model("llama")
    lane, seen = lane_of(model), []
    steps(lane, 2)
    hook = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: seen.append(1))
    with fused_in(lane, 1):
        lane.logits()
    assert seen == [1]
    hook.remove()
    lane.feed(torch.tensor([3, 4, 5]))
    with fused_in(lane, 2):
        lane.logits()
    lane.feed(torch.tensor([3, 4, 5]))
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with fused_in(lane, 0):
            lane.logits()
    finally:
        hook.remove()


def test_others_that_run_the_model_meanwhile_get_what_it_gives() -> None:
    """Another thread, in the middle of a forward of the lane."""
    model, ids = families.model("llama"), torch.tensor([TEXTS[0]])
    lane, found = lane_of(model), list[Tensor]()
    steps(lane, 2)
    expected = model(ids, use_cache=False).logits

    def meanwhile(*_: Any) -> None:
        hook.remove()
        with ThreadPoolExecutor(1) as threads:
            found.append(threads.submit(model, ids, use_cache=False).result().logits)

    hook = model.model.layers[0].register_forward_hook(meanwhile)
    with fused_in(lane, 2):
        lane.logits()
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize(("fault", "why"), [
    (lambda joined: gated(joined) * 1.5, "its kernels are "),
    (lambda joined: 1 / 0, "its kernel fails: division by zero"),
])  # fmt: skip
def test_what_disagrees_is_not_used_and_said(fault, why, monkeypatch, caplog) -> None:
    """The first step is right, and so are its keys."""
    model = families.model("llama")
    expected = steps(lane_of(model, fused=False))
    lane = lane_of(model)
    monkeypatch.setattr(layer_file, "gated", fault)
    with caplog.at_level(logging.WARNING, "descant"):
        found = steps(lane)
    assert all(map(torch.equal, found, expected))
    assert lane.fused.why_plain is not None and lane.fused.why_plain.startswith(why)
    [message] = caplog.messages
    assert message.startswith(
        f"LlamaForCausalLM: layers go on in transformers' code, for {lane.fused.why_plain}"
    )


def test_why_layers_are_not_fused(monkeypatch) -> None:
    def why(model: Any, device: torch.device = GPU) -> str | None:
        lane = lane_of(model, fused=False)
        return FusedLayers(model, device, lane.adapters).why_plain

    model = families.model("llama")
    assert why(model, torch.device("cpu")) == "it is not on a GPU"
    with monkeypatch.context() as patched:
        patched.setattr(gpu, "_disabled", lambda: frozenset({"layers"}))
        assert why(model) == "DESCANT_DISABLE_KERNELS names layers"
    assert why(families.model("olmo")) == "its layers are of the class OlmoDecoderLayer"

    class Quantized(nn.Linear):
        pass

    model.model.layers[1].self_attn.k_proj.__class__ = Quantized
    assert why(model) == "its layers have parts of the class Quantized"
    model = families.model("llama")
    model.model.layers[0].mlp.forward = model.model.layers[0].mlp.forward
    assert why(model) == "its layers have parts of the class LlamaMLP"
    model = families.model("qwen2")
    model.model.layers[1].self_attn.v_proj.bias = None
    assert why(model) == (
        "some of its products have biases, and others that read the same have none"
    )
    model = families.model("llama")
    model.model.layers[0].mlp.to(torch.float16)
    assert why(model) == (
        "its layers are in float16, float32: one of float32, bfloat16, float16 is taken"
    )
    model = families.model("llama")
    one = model.model.layers[0].mlp.up_proj
    one.weight.data = torch.randn(2 * len(one.weight), one.in_features)[: len(one.weight)]
    assert why(model) == "its matrices share memory with others"
    model = families.model("llama")
    assert why(model) is None
    model.model.compile()
    assert why(model) == "it is compiled"


# what the model keeps


@torch.no_grad()
def test_joined_weights_are_the_models_own(tmp_path) -> None:
    """No memory is doubled; whoever has the model computes, saves, and merges as before."""
    model = families.model("qwen2")
    before = {name: each.clone() for name, each in model.state_dict().items()}
    parameters, ids = dict(model.named_parameters()), torch.tensor([TEXTS[0]])
    expected = model(ids, use_cache=False).logits
    query = model.model.layers[0].self_attn.q_proj
    old = weakref.ref(query.weight.untyped_storage())
    plain = lane_of(model, fused=False).footprint()
    lane = lane_of(model)
    gc.collect()
    assert old() is None
    assert {id(each) for each in model.parameters()} == {*map(id, parameters.values())}
    assert torch.equal(model(ids, use_cache=False).logits, expected)
    held = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in
            model.parameters()}  # fmt: skip
    assert sum(held.values()) == sum(each.nbytes for each in parameters.values())
    footprint = lane.footprint()
    assert (footprint.weight_bytes, footprint.memory) == (plain.weight_bytes, plain.memory)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(each, before[name]) for name, each in again.items())
    other = lane_of(model)  # over the same weights, which stay where they are
    assert {each.untyped_storage()._cdata for each in model.parameters()} == held.keys()
    assert all(map(torch.equal, steps(other), steps(lane)))


def test_weights_that_change_are_seen() -> None:
    """In place, as merges and training do; others in their stead are read by the plain code."""
    model = families.model("llama")
    lane = lane_of(model)
    steps(lane, 2)
    query = model.model.layers[0].self_attn.q_proj
    changes = (
        (2, lambda: query.weight.data.mul_(1.5)),
        (1, lambda: setattr(query.weight, "data", query.weight.data * 0.8)),
        (0, lambda: setattr(model.model.layers[1].mlp, "gate_proj", nn.Linear(32, 48, False))),
    )
    for layers, change in changes:
        change()
        with fused_in(lane, layers):
            [found] = steps(lane, 1)
        assert close(found, steps(lane_of(model, fused=False), 1)[0])
