"""Steps that are recorded: what is replayed is the step, for every formula, in every door.

Without a GPU a recording is a tape of operations (``tape.py``). With one, CUDA's own graphs are
held against the eager step.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from checkpoints import moved, renumbered, tokenizer
from tape import Tape, on_tape

from descant.models import recordings
from descant.models.recordings import bucket, buckets

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]


@pytest.fixture
def taped(monkeypatch, compiled):
    """Compile a formula whose steps are recorded on tapes."""
    live = on_tape(monkeypatch)

    def make(formula: str, masks: bool = False, **options: Any) -> Any:
        return live(compiled(formula, **options), not masks)

    return make


@pytest.fixture
def plain(compiled, taped):
    """The same without recordings."""
    return lambda formula, **options: compiled(formula, capture=False, **options)


FORMULAS = [
    "base",
    "base + a*arm - 0.3*gpt",
    "base + a*lora4 + (1-a)*lora8",
    "max(base, arm) | top_k(20) | top_p(0.9) | min_p(0.01)",
    "mix(a: base, 0.5: arm) | temperature(0.8) | repetition_penalty(1.2)",
    "base + a*arm | frequency_penalty(0.5) | presence_penalty(a) | logit_bias({5: 2})",
    "base | no_repeat_ngram(2) | dry(1, 1.5, 1) | xtc(a, 0.01) | typical_p(0.95) | top_n_sigma(4)",
    "pmean(-1; 0.5: base, 0.5: arm)",
    "plausible(arm, 0.1) - 0.2*temp(base, 0.5)",
    "base | rerank(rm, k=4, w=1.5)",
    "base + a*arm | rerank(0.5*rm + rm2, k=5, w=1, norm=center, keep=all)",
    "(base | rerank(rm, k=3)) + a*arm",
    "gqa + a*base@none",
    "where(entropy(base) > 4, base + a*arm, arm - 0.3*base)",
    "where(step < 3, mix(0.5: base, 0.5: arm), base + arm)",
    "where(step < 3, base, arm)",
    "(1 + js(base, arm))*base - a*js(base, arm)*arm | temperature(0.5 + 0.1*entropy(arm))",
    "base + 0.9**step*arm + (base | top_p(max_prob(arm)))",
    "base | best_of(rm, n=2)",
    "base + a*arm | blockwise(arm - base, beams=2, samples=2, length=4)",
    "base | reject(rm, target=1, entropy=3, beta=0.1, retries=2)",
]


def written(formula: str) -> tuple[str, dict[str, Any]]:
    """A formula over the models of the tests, and its parameters."""
    formula = formula.replace("gpt", "arm2").replace("gqa", "strong")
    return formula, {"a": 0.5} if any(each in formula for each in ("a*", "a:", "(a,")) else {}


@pytest.mark.parametrize(
    ("formula", "temperature", "masks"),
    [*((formula, 0.9, False) for formula in FORMULAS), ("base + a*arm - 0.3*gpt", 0.0, False)]
    + [(formula, 0.9, True) for formula in ("base", "base | rerank(rm, k=4, w=1.5)")],
)
def test_a_replay_is_the_step(taped, plain, formula, temperature, masks) -> None:
    formula, params = written(formula)
    settings: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 2}
    if params:
        settings["params"] = {"a": [0.5, 1 if "xtc" in formula else 1.5, 0.25, 0.75]}
    expected = plain(formula, params=params).generate(PROMPTS, **settings)
    decoder = taped(formula, params=params, masks=masks)
    found = decoder.generate(PROMPTS, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert decoder.session.engine.graphs.why_eager is None
    assert sum(tape.replays for tape in Tape.made) > 2 * len(Tape.made) > 2
    stats = decoder.session.engine.stats
    assert stats.steps > 0 and stats.bytes_read > 0
    again = decoder.generate(PROMPTS, **settings)
    assert [one.token_ids for one in again] == [one.token_ids for one in expected]


def test_a_replay_has_the_fields_of_its_requests(taped, plain) -> None:
    """Rows come and go, some of them without any; numbers change and nothing is recorded anew."""
    prompts = PROMPTS * 3
    settings = {"seed": 5, "batch_size": 3, "eos_token_id": list(range(0, 300, 9))}
    fields = {
        "top_k": [5, 20, None] * 4, "frequency_penalty": [0.5, 1.5] * 6, "min_tokens": [3, 0] * 6,
        "logit_bias": [{i: 3.0, 9 * i: -2} for i in range(12)], "top_p": [0.9, 0.8, 0.95, 1] * 3,
        "temperature": [0.7, 1.0, 1.3, 0.9] * 3,
    }  # fmt: skip
    expected = plain("base + 0.5*arm").generate(prompts, max_new_tokens=20, **settings, **fields)
    decoder = taped("base + 0.5*arm")
    found = decoder.generate(prompts, max_new_tokens=20, **settings, **fields)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert sum(tape.replays for tape in Tape.made) > 8


@pytest.mark.parametrize("formula", ["base", "base + 0.5*arm", "base | rerank(rm, k=4, w=1.5)"])
def test_a_run_is_recorded_once_and_the_next_run_not_at_all(taped, plain, formula) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 100, "eos_token_id": [], "seed": 2}
    decoder = taped(formula)
    found = decoder.generate(PROMPTS, **settings)
    recorded = len(Tape.made)
    lanes = {term.lane for term in decoder.session.bound.all_terms if term.language}
    assert recorded == len(lanes) + 1  # each forward, and what follows
    assert {tape.replays for tape in Tape.made} == {99}  # all steps but the first
    again = decoder.generate(PROMPTS[::-1], **settings)
    assert len(Tape.made) == recorded
    assert [one.token_ids for one in again] == [one.token_ids for one in found[::-1]]


def test_recordings_serve_the_rows_that_come_and_go(taped, plain) -> None:
    ends = list(range(0, 300, 9))
    settings = {"temperature": 1.0, "seed": 5, "batch_size": 3, "eos_token_id": ends}
    prompts = PROMPTS * 3
    formula = "base + 0.5*arm + 0.2*lora4 | rerank(rm, k=4, w=1.5)"
    expected = plain(formula).generate(prompts, max_new_tokens=20, **settings)
    decoder = taped(formula)
    found = decoder.generate(prompts, max_new_tokens=20, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    steps = decoder.session.engine.stats.steps
    base, arm, reward = decoder.session.engine.step.forwards  # prompts gave some first tokens
    assert base == arm and reward == steps >= base > steps / 2
    assert sum(tape.replays for tape in Tape.made) > steps > 8


@pytest.mark.parametrize("values", [[0, 1, 1, 1], [1, 1, -0.5, 2], [0, 1, 1, -0.5, 0.25]])
def test_what_the_host_decides_changes_with_the_rows(taped, plain, values) -> None:
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
    expected = plain(formula, params={"a": 1}).generate(prompts, **settings)
    found = taped(formula, params={"a": 1}).generate(prompts, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert len(Tape.made) > 3


def test_what_is_read_in_pieces_is_read_between_replays(zoo, taped, plain) -> None:
    known = {token: i for token, i in tokenizer().get_vocab().items() if i < 270}
    ids = {token if i < 259 else f"{token}??": i for token, i in known.items()}
    arm = moved(zoo.model("arm"), known)
    other = {"other": {"model": arm, "tokenizer": renumbered(ids)}}
    formula = "mix(0.6: base, 0.4: align(other))"
    settings = {"temperature": 3.0, "seed": 3, "eos_token_id": [], "max_new_tokens": 40}
    eager, recorded = plain(formula, models=other), taped(formula, models=other)
    expected, found = (one.generate(PROMPTS[:3], **settings) for one in (eager, recorded))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert any(token >= 259 for one in found for token in one.token_ids)
    assert sum(tape.replays for tape in Tape.made) >= 6
    shares = [one.session.engine.stats.mapped_shares()["other"] for one in (eager, recorded)]
    assert shares[0] == pytest.approx(shares[1]) and 0.5 < shares[0] < 1


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_steps_with_logprobs_are_recorded_too(taped, plain, temperature) -> None:
    """A recording for each kind of request: what is copied to the host differs."""
    formula, settings = "base + 0.5*arm | top_k(20)", {"temperature": temperature, "seed": 2}
    kinds: list[dict[str, Any]] = [
        {}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 3, "logprobs_mode": "processed_logprobs"},
    ]  # fmt: skip
    eager, recorded = plain(formula), taped(formula)
    for kind in kinds:
        expected = eager.generate(PROMPTS, max_new_tokens=8, **settings, **kind)
        found = recorded.generate(PROMPTS, max_new_tokens=8, **settings, **kind)
        for one, other in zip(found, expected, strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == (other.logprobs and pytest.approx(other.logprobs, abs=1e-4))
            for own, theirs in zip(one.top_logprobs or (), other.top_logprobs or (), strict=True):
                assert own == pytest.approx(theirs, abs=1e-4)
    assert sum(tape.replays > 0 for tape in Tape.made) >= len(kinds)


def test_scores_between_two_runs_are_eager_and_leave_the_recordings(taped, plain) -> None:
    formula, settings = "base + 0.5*arm", {"max_new_tokens": 12, "eos_token_id": []}
    decoder = taped(formula)
    first = decoder.generate(PROMPTS, **settings)
    recorded = len(Tape.made)
    scores = decoder.scores(PROMPTS[0], first[0].token_ids[:5])
    expected = plain(formula).scores(PROMPTS[0], first[0].token_ids[:5])
    torch.testing.assert_close(scores, expected)
    again = decoder.generate(PROMPTS, **settings)
    assert [one.token_ids for one in again] == [one.token_ids for one in first]
    assert len(Tape.made) == recorded


def test_what_cannot_be_recorded_goes_on_eagerly(taped, plain, monkeypatch, caplog) -> None:
    decoder, record = taped("base + 0.5*arm"), Tape.record

    def failing(self, work):
        record(self, work)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Tape, "record", failing)
    expected = plain("base + 0.5*arm").generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    with caplog.at_level(logging.WARNING, "descant"):
        found = decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    why = "it cannot be recorded: operation not permitted when stream is capturing"
    assert [record.message.split(";")[0] for record in caplog.records] == [
        f"LlamaForCausalLM: {why}", f"LlamaForCausalLM: {why}", f"base + 0.5*arm: {why}",
    ]  # fmt: skip
    assert "descant doctor --gpu" in caplog.text
    assert decoder.session.engine.stats.steps == 6
    assert decoder.session.engine.step.forwards == [6, 6]


def test_a_replay_that_differs_from_the_eager_step_is_not_used(
    taped, plain, monkeypatch, caplog
) -> None:
    decoder, replay = taped("base + 0.5*arm"), Tape.replay

    def planted(self):
        replay(self)
        self._tape[-1][1][0].add_(1)  # what the last operation has written

    monkeypatch.setattr(Tape, "replay", planted)
    expected = plain("base + 0.5*arm").generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    with caplog.at_level(logging.WARNING, "descant"):
        found = decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert "a replay gives other numbers than the eager step" in caplog.text
    assert all(tape.replays <= 1 for tape in Tape.made)


def test_a_replay_that_does_nothing_is_not_used(taped, plain, monkeypatch, caplog) -> None:
    """As where the work is on another device than what records it."""
    decoder = taped("base + 0.5*arm")
    monkeypatch.setattr(Tape, "replay", lambda self: None)
    expected = plain("base + 0.5*arm").generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    with caplog.at_level(logging.WARNING, "descant"):
        found = decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert "a replay gives other numbers than the eager step" in caplog.text


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


def test_buckets() -> None:
    assert buckets(40) == [1, 2, 4, 8, 16, 24, 32, 40]
    assert buckets(3) == [1, 2, 3] and bucket(0, 8) == 0
    assert bucket(256, 999) == 256 and bucket(257, 999) == 272


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.tensor([1, 2]), torch.tensor([1, 2]), True),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), False),
        (torch.tensor([-torch.inf, torch.nan]), torch.tensor([-torch.inf, torch.nan]), True),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0]), False),
        (torch.tensor([1.0, 100.0]), torch.tensor([1.04, 100.0]), True),
        (torch.tensor([1.0, 1.0]), torch.tensor([1.04, 1.0]), False),
    ],
)  # fmt: skip
def test_what_agrees(one, other, same) -> None:
    assert recordings.agree([one], [other], 1e-3) is same


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("formula", FORMULAS)
def test_cuda_graphs_are_the_eager_step(compiled, formula, temperature) -> None:
    formula, params = written(formula)
    settings: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 2}
    eager = compiled(formula, params=params, device="cuda", dtype="float32", capture=False)
    graphs = compiled(formula, params=params, device="cuda", dtype="float32")
    expected = eager.generate(PROMPTS, **settings)
    for _ in range(2):
        found = graphs.generate(PROMPTS, **settings)
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert graphs.session.engine.graphs.why_eager is None
