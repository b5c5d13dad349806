"""A step that is recorded is the same kernels over the same memory each time that it is replayed.

Without a GPU a recording is played by doing the step again, under a mode that notes every operation
with its numbers and the memory that it works on: a replay must be the recording, line for line, and
may ask the device for nothing. With one, CUDA's own graphs are held against the eager step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from checkpoints import moved, renumbered, tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from descant.models.cache.kv_cache import RowCache
from descant.models.cache.rows import Rows
from descant.runtime.decoder import Decoder
from descant.runtime.engine.cuda_graphs import StepGraphs, why_eager

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]
ASKING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "unique", "equal.")


class Trace(TorchDispatchMode):
    """Notes operations: names, numbers, and the memory of tensors that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._made: dict[int, Any] = {}  # kept, so that no memory is used twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.lines.append(f"{func} {tree_map(self._said, (args, kwargs or {}))}")
        tree_map(self._make, out)
        return out

    def _said(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        storage = value.untyped_storage()
        known = storage._cdata in self._made
        if not known:
            self.before.add(storage.data_ptr())
        where = "made" if known else storage.data_ptr()
        return where, tuple(value.shape), value.stride(), value.storage_offset(), value.dtype

    def _make(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in self.before:
                self._made[storage._cdata] = storage

    def note(self, before: set[int]) -> Trace:
        """Count these addresses as there before."""
        self.before = before
        return self


class Played:
    """A recording that is done again instead of replayed."""

    made: ClassVar[list[Played]] = []

    def __init__(self, decoder: Decoder) -> None:
        self._lanes = decoder.session.bound.lanes
        self._forwards = decoder.session.engine.step.forwards
        self.replays = 0
        Played.made.append(self)

    def record(self, work: Callable[[], Any]) -> Any:
        self._work = work
        self._batch = work.__closure__[0].cell_contents
        kept = [tensor.clone() for tensor in self._state()]
        for lane in self._lanes:
            lane.rows.before = lane.rows.counts()
        self.trace, self._drawn = self._traced()
        for tensor, before in zip(self._state(), kept, strict=True):
            tensor.copy_(before)
        return self._drawn

    def replay(self) -> None:
        self.replays += 1
        after = [lane.rows.counts() for lane in self._lanes]
        forwards = [*self._forwards]
        for lane in self._lanes:
            lane.rows.restore(lane.rows.before)
        trace, (_, told) = self._traced()
        assert trace == self.trace
        assert [lane.rows.counts() for lane in self._lanes] == after
        self._forwards[:] = forwards
        self._drawn[1].copy_(told)

    def _traced(self) -> tuple[list[str], Any]:
        before = {tensor.untyped_storage().data_ptr() for tensor in self._state()}
        with Trace().note(before) as trace:
            drawn = self._work()
        asked = [line for line in trace.lines if any(word in line.split()[0] for word in ASKING)]
        assert not asked
        return trace.lines, drawn

    def _state(self) -> list[torch.Tensor]:
        """Every tensor that a step writes to and the next one reads."""
        batch = self._batch
        found = [batch.steps, batch.search_score, *([batch.seen] if batch.seen is not None else [])]
        found += [columns.share for columns in batch.token_columns.values()]
        for lane in self._lanes:
            found += [lane.rows.texts, lane.rows.lengths, lane.rows.ends]
            found += lane._cache._tensors() if hasattr(lane, "_cache") else []
        return found


@pytest.fixture
def played(monkeypatch) -> Callable[[Decoder], Decoder]:
    """Make a decoder record its steps."""
    advance = Rows.advance

    def advanced(self, added, unread) -> None:
        self.before = self.counts()
        advance(self, added, unread)

    monkeypatch.setattr(Rows, "advance", advanced)
    monkeypatch.setattr(RowCache, "clear", lambda self: None)  # as on a GPU: addresses stay
    Played.made = []

    def make(decoder: Decoder) -> Decoder:
        engine = decoder.session.engine
        for lane in decoder.session.bound.lanes:
            lane.exact_length = False  # as on a GPU
        engine.graphs = StepGraphs(engine.step, lambda: Played(decoder))
        return decoder

    return make


FORMULAS = [
    "base",
    "base + a*arm - 0.3*gpt",
    "base + a*lora4 + (1-a)*lora8",
    "max(base, arm) | top_k(20) | top_p(0.9) | min_p(0.01)",
    "mix(a: base, 0.5: arm) | temperature(0.8) | repetition_penalty(1.2)",
    "pmean(-1; 0.5: base, 0.5: arm)",
    "plausible(arm, 0.1) - 0.2*temp(base, 0.5)",
    "base | rerank(rm, k=4, w=1.5)",
    "base + a*arm | rerank(0.5*rm + rm2, k=5, w=1, norm=center, keep=all)",
    "(base | rerank(rm, k=3)) + a*arm",
    "gqa + a*base@none",
    "where(entropy(base) > 4, base + a*arm, arm - 0.3*base)",
    "where(step < 3, mix(0.5: base, 0.5: arm), base + arm)",
    "base | best_of(rm, n=2)",
    "base + a*arm | blockwise(arm - base, beams=2, samples=2, length=4)",
    "base | reject(rm, target=1, entropy=3, beta=0.1, retries=2)",
]  # of lanes that every step reads


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_replay_is_the_step(compiled, played, formula, temperature) -> None:
    formula = formula.replace("gpt", "arm2").replace("gqa", "strong")
    params = {"a": 0.5} if "a*" in formula or "a:" in formula else None
    settings: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 2}
    if params:
        settings["params"] = {"a": [0.5, 1.5, 0.25, 0.75]}
    expected = compiled(formula, params=params).generate(PROMPTS, **settings)
    decoder = played(compiled(formula, params=params))
    found = decoder.generate(PROMPTS, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert decoder.session.engine.graphs.why_eager is None
    assert sum(one.replays for one in Played.made) >= 6
    stats = decoder.session.engine.stats
    assert stats.steps > 0 and stats.bytes_read > 0


def test_a_recording_serves_the_rows_that_come_and_go(compiled, played) -> None:
    ends = list(range(0, 300, 9))
    settings = {"temperature": 1.0, "seed": 5, "batch_size": 3, "eos_token_id": ends}
    prompts = PROMPTS * 3
    expected = compiled("base + 0.5*arm").generate(prompts, max_new_tokens=20, **settings)
    decoder = played(compiled("base + 0.5*arm"))
    graphs, ready = decoder.session.engine.graphs, []

    def draw(batch: Any) -> Any:
        ready.append(all(lane.ready for lane in decoder.session.bound.lanes))
        return StepGraphs.draw(graphs, batch)

    graphs.draw = draw
    found = decoder.generate(prompts, max_new_tokens=20, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    steps = len(ready)
    forwards = steps - sum(ready)  # none in a step whose logits came with the prompts
    assert decoder.session.engine.step.forwards == [forwards, forwards] and any(ready)
    assert sum(one.replays for one in Played.made) > steps / 2 > 4


@pytest.mark.parametrize("values", [[0, 1, 1, 1], [1, 1, -0.5, 2], [0, 1, 1, -0.5, 0.25]])
def test_what_the_host_decides_changes_with_the_rows(compiled, played, values) -> None:
    """Rows whose arm has no weight, or one below 0, take the places of others."""
    prompts = PROMPTS * 8
    numbers = torch.randint(
        len(values), (len(prompts),), generator=torch.Generator().manual_seed(1)
    )
    settings = {
        "temperature": 1.0, "seed": list(range(len(prompts))), "batch_size": 3,
        "eos_token_id": list(range(0, 300, 11)), "max_new_tokens": 12,
        "params": {"a": [values[i] for i in numbers]},
    }  # fmt: skip
    formula = "top_k(base, 200) + a*top_k(arm, 250)"
    expected = compiled(formula, params={"a": 1}).generate(prompts, **settings)
    found = played(compiled(formula, params={"a": 1})).generate(prompts, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert len(Played.made) > 3


def test_what_is_read_in_pieces_is_read_between_replays(zoo, compiled, played) -> None:
    known = {token: i for token, i in tokenizer().get_vocab().items() if i < 270}
    ids = {token if i < 259 else f"{token}??": i for token, i in known.items()}
    arm = moved(zoo.model("arm"), known)
    other = {"other": {"model": arm, "tokenizer": renumbered(ids)}}
    formula = "mix(0.6: base, 0.4: align(other))"
    settings = {"temperature": 3.0, "seed": 3, "eos_token_id": [], "max_new_tokens": 40}
    eager, recorded = compiled(formula, models=other), played(compiled(formula, models=other))
    expected, found = (one.generate(PROMPTS[:3], **settings) for one in (eager, recorded))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert any(token >= 259 for one in found for token in one.token_ids)
    assert sum(one.replays for one in Played.made) >= 6
    shares = [one.session.engine.stats.mapped_shares()["other"] for one in (eager, recorded)]
    assert shares[0] == pytest.approx(shares[1]) and 0.5 < shares[0] < 1


def test_what_cannot_be_recorded_goes_on_eagerly(compiled, played) -> None:
    decoder = played(compiled("base + 0.5*arm"))
    before = decoder.session.engine.step.draw

    class Failing(Played):
        def record(self, work):
            work()
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    decoder.session.engine.graphs = StepGraphs(
        decoder.session.engine.step, lambda: Failing(decoder)
    )
    expected = compiled("base + 0.5*arm").generate(PROMPTS[:1], max_new_tokens=1)
    # the device work of a failed recording is never done; here it is, so that tokens are not held
    decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    assert decoder.session.engine.graphs.why_eager == (
        "it cannot be captured: operation not permitted when stream is capturing"
    )
    assert all(one.rows.counts() for one in decoder.session.bound.lanes)
    assert decoder.session.engine.stats.steps == 6 and decoder.session.engine.step.draw == before
    again = decoder.generate(PROMPTS[:1], max_new_tokens=1)
    assert again[0].token_ids == expected[0].token_ids


def test_lanes_that_do_not_wait_for_each_other_are_read_first_in_any_order(compiled) -> None:
    formula = "where(entropy(base) > 4, base + arm, where(step < 3, strong, base)) - 0.5*arm"
    expected = compiled(formula).generate(PROMPTS, max_new_tokens=9)
    decoder = compiled(formula)
    asked: list[int] = []

    def last_first(reads):
        asked.append(len(reads))
        return [read() for read in reversed(reads)][::-1]

    decoder.session.engine.step.run_forwards = last_first
    found = decoder.generate(PROMPTS, max_new_tokens=9)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert set(asked) == {2}  # base and arm; strong is asked for by a condition


def test_why_a_plan_is_eager(compiled) -> None:
    assert why_eager(compiled("base + 0.5*arm").session.bound) is None
    assert why_eager(compiled("where(step < 2, base, base - arm) + arm").session.bound) is None
    assert "where asks" in why_eager(compiled("where(step < 2, base, arm)").session.bound)
    assert "step " not in str(compiled("base").plan)
    if not torch.cuda.is_available():
        plan = str(compiled("base", capture=True).plan)
        assert "step        eager: not all models are on a GPU" in plan


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("formula", FORMULAS)
def test_cuda_graphs_are_the_eager_step(compiled, formula, temperature) -> None:
    formula = formula.replace("gpt", "arm2").replace("gqa", "strong")
    params = {"a": 0.5} if "a*" in formula or "a:" in formula else None
    settings: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 2}
    eager = compiled(formula, params=params, device="cuda", dtype="float32")
    graphs = compiled(formula, params=params, device="cuda", dtype="float32", capture=True)
    expected = eager.generate(PROMPTS, **settings)
    for _ in range(2):
        found = graphs.generate(PROMPTS, **settings)
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert graphs.session.engine.graphs.why_eager is None


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_steps_with_logprobs_are_recorded_too(compiled, played, temperature) -> None:
    """A recording for each kind of request: what is copied to the host differs."""
    formula, settings = "base + 0.5*arm | top_k(20)", {"temperature": temperature, "seed": 2}
    kinds: list[dict[str, Any]] = [
        {}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 3, "logprobs_mode": "processed_logprobs"},
    ]  # fmt: skip
    eager, recorded = compiled(formula), played(compiled(formula))
    for kind in kinds:
        expected = eager.generate(PROMPTS, max_new_tokens=8, **settings, **kind)
        found = recorded.generate(PROMPTS, max_new_tokens=8, **settings, **kind)
        for one, other in zip(found, expected, strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == other.logprobs or one.logprobs == pytest.approx(other.logprobs)
            for own, theirs in zip(one.top_logprobs or (), other.top_logprobs or (), strict=True):
                assert own == pytest.approx(theirs)
    assert sum(recording.replays > 0 for recording in Played.made) >= len(kinds)
