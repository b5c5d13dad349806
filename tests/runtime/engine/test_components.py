"""A mixture by component: each row and step draws one, and nothing else is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from checkpoints import BOS, LORA, tokenizer
from component_rule import component, rollout, uniform
from reference_rules import plain
from tape import Tape, on_tape

import descant
from descant.models import make_spec
from descant.models.kernels import noise
from descant.runtime import Service
from descant.runtime.scores import components
from descant.runtime.scores.components import draw_component
from descant.runtime.scores.noise import seed_key

V = 12
TABLES = {name: descant.TableModel.random(V, seed=seed) for seed, name in enumerate("abc")}
PROMPTS = ["the river", "a", "def add(one, two): return", "stone é", "to the sea and on"]
SEEDS = [5, 11, 2**40 + 1, -3, 0]
WEIGHTS = [0.5, 1, 0, 0.125, 0.9]
ASKED: dict[str, Any] = {"sample_components": True, "eos_token_id": []}


def table(formula: str, **more: Any) -> Any:
    return descant.compile(formula, models=TABLES, **more)


def tokens(decoder: Any, prompts: Any, **settings: Any) -> list[list[int]]:
    return [one.token_ids for one in decoder.generate(prompts, **{**ASKED, **settings})]


class Says:
    """What the checkpoints say of a text, from scratch."""

    def __init__(self, zoo: Any, prompt: str) -> None:
        self.zoo, self.prompt = zoo, tokenizer()(prompt)["input_ids"]

    def __getattr__(self, name: str) -> Any:
        return lambda made: plain.logprobs(self.zoo.model(name), [*self.prompt, *made])

    def alone(self, name: str) -> Any:
        return lambda made: plain.logprobs(self.zoo.model(name), [BOS, *made])


def top(scores: torch.Tensor, k: int) -> torch.Tensor:
    return torch.where(scores >= scores.topk(k).values[-1], scores, -torch.inf)


FORMULAS: list[tuple[str, Any, Any]] = [
    ("mix(w: base, 1-w: arm)", lambda s: [s.base, s.arm], lambda w: [w, 1 - w]),
    ("mix(2: base, w: gpt2, 1: arm)", lambda s: [s.base, s.gpt2, s.arm], lambda w: [2, w, 1]),
    ("mix(0.2: base, 0.5: lora4, 0.3: lora8)",
     lambda s: [s.base, s.lora4, s.lora8], lambda w: [0.2, 0.5, 0.3]),
    ("mix(0.5: base + w*arm, 0.3: strong, 0.2: base@none)",
     lambda s, w: [lambda t: s.base(t) + w * s.arm(t), s.strong, s.alone("base")],
     lambda w: [0.5, 0.3, 0.2]),
    ("mix(0.4: where(step < 3, base, arm), 0.6: mistral)",
     lambda s: [lambda t: s.base(t) if len(t) < 3 else s.arm(t), s.mistral], lambda w: [0.4, 0.6]),
    ("mix(0.5: (base | top_k(20)), 0.5: temp(arm, 0.7))",
     lambda s: [lambda t: top(s.base(t), 20), lambda t: s.arm(t) / 0.7], lambda w: [0.5, 0.5]),
    ("mix(0.5: mix(0.5: base, 0.5: arm), 0.5: arm)",
     lambda s: [lambda t: torch.logaddexp(s.base(t), s.arm(t)), s.arm], lambda w: [0.5, 0.5]),
]  # fmt: skip


def rows(zoo: Any, voices: Any, weights: Any, most: int, ends: Sequence[int] = ()) -> list[Any]:
    """The tokens and the components of every prompt's row, by the rule."""
    takes_w = voices.__code__.co_argcount == 2
    return [
        rollout(
            voices(Says(zoo, prompt), *[w] * takes_w), weights(w), seed, most, ends
        )
        for prompt, seed, w in zip(PROMPTS, SEEDS, WEIGHTS, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(("formula", "voices", "weights"), FORMULAS, ids=[f[0] for f in FORMULAS])
def test_a_token_is_drawn_from_the_component_that_the_row_has_drawn(
    zoo, compiled, formula, voices, weights
) -> None:
    expected = rows(zoo, voices, weights, 8)
    params = {"w": WEIGHTS} if "w" in formula.replace("where", "") else {}
    decoder = compiled(formula, params={"w": 0.5} if params else None)
    ends = [expected[0][0][2], expected[3][0][4]]
    for size, eos in ((5, []), (2, ends), (1, [])):
        found = tokens(
            decoder, PROMPTS, seed=SEEDS, params=params, batch_size=size, eos_token_id=eos,
            max_new_tokens=8,
        )  # fmt: skip
        for row, (whole, _) in zip(found, expected, strict=True):
            at = next((i for i, token in enumerate(whole) if token in eos), len(whole))
            assert row == whole[: at + 1]


@pytest.mark.parametrize("batch", [1, 5])
def test_a_lane_runs_in_the_steps_where_a_row_has_drawn_it(zoo, compiled, batch) -> None:
    decoder = compiled("mix(0.6: base, 0.4: arm)")
    expected = [
        rollout([says.base, says.arm], [0.6, 0.4], seed, 12)[1]
        for says, seed in zip((Says(zoo, each) for each in PROMPTS[:batch]), SEEDS, strict=False)
    ]
    decoder.generate(PROMPTS[0], max_new_tokens=1)
    counts = decoder.session.engine.step.forwards
    before = [*counts]
    tokens(decoder, PROMPTS[:batch], seed=SEEDS[:batch], max_new_tokens=12)
    steps = [set(drawn) for drawn in zip(*expected, strict=True)]
    first = 1 if batch == 1 else 0  # reading one prompt gives what follows it
    for lane in (0, 1):
        name = decoder.session.bound.lane_names[lane]
        number = ["base", "arm"].index(name)
        assert counts[lane] - before[lane] == sum(number in drawn for drawn in steps[first:])
    drawn = Counter(number for row in expected for number in row)
    assert decoder.session.engine.stats.components == drawn
    shares = f"base {drawn[0] / drawn.total():.1%}, arm {drawn[1] / drawn.total():.1%}"
    assert f"drawn       {shares} of {drawn.total()} times" in str(decoder.plan)


def test_the_distribution_is_the_mixtures() -> None:
    """Chi-square over the first two tokens, each way against what softmax says."""
    decoder, many = table("mix(0.3: a, 0.5: b, 0.2: c)"), 6000
    found = tokens(decoder, [[3]] * many, seed=[*range(many)], max_new_tokens=2, batch_size=500)
    softmax = {name: lane.table.double().softmax(-1) for name, lane in TABLES.items()}
    mixed = 0.3 * softmax["a"] + 0.5 * softmax["b"] + 0.2 * softmax["c"]
    pairs = torch.tensor([first * V + second for first, second in found])
    expected = (mixed[3][:, None] * mixed).reshape(-1) * many
    counts = torch.bincount(pairs, minlength=V * V).double()
    kept = expected > 5
    square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert square < freedom + 4 * math.sqrt(2 * freedom)
    wrong = (counts - softmax["a"][3][:, None].mul(mixed).reshape(-1) * many)[kept] ** 2
    assert (wrong / expected[kept]).sum() > freedom + 40 * math.sqrt(2 * freedom)


def test_the_noise_of_a_step_is_the_same_in_plain_python() -> None:
    keys = [seed_key(seed) for seed in range(300)]
    steps = [7 * i % 1000 for i in range(300)]
    found = noise.uniform(torch.tensor(keys, dtype=torch.int32), torch.tensor(steps))
    assert found[:, 0].tolist() == [uniform(*pair, -1) for pair in zip(keys, steps, strict=True)]
    assert found[:, 0].tolist() == list(map(noise.uniform_on_host, keys, steps))
    tensors = torch.empty(300, 1, dtype=torch.int32)  # as on a GPU, where there are no arrays
    words = torch.tensor(keys, dtype=torch.int32), torch.tensor(steps, dtype=torch.int32)
    noise._write(tensors, *words, torch.full((1,), -1, dtype=torch.int32))
    assert torch.equal((tensors.float() + 0.5) * 2.0**-23, found)


WEIGHED = [
    [0.5, 0.5], [0.0, 1.0], [1.0, 0.0], [0.0, 0.3, 0.0, 0.7, 0.0], [1e-37, 1e-38, 0.0],
    [3e38, 0.0], [0.1] * 10, [1e-6, 1.0, 1e-6], [0.0, 2.0**-149], [1.0, 2.0**-30, 0.0],
]  # fmt: skip


@pytest.mark.parametrize("weights", WEIGHED, ids=str)
@pytest.mark.parametrize("at", [None, 0.5 * 2.0**-23, 1 - 0.5 * 2.0**-23])
def test_a_component_without_weight_is_never_drawn(monkeypatch, weights, at) -> None:
    """Also where the random number is the least or the largest that there is."""
    many = 2000
    if at is not None:
        constant = lambda keys, steps: torch.full((len(keys), 1), at)  # noqa: E731
        monkeypatch.setattr(components, "uniform", constant)
        monkeypatch.setattr(components, "uniform_on_host", lambda key, step: at)
    keys = torch.tensor([seed_key(seed) for seed in range(many)], dtype=torch.int32)
    columns = [torch.full((many, 1), weight) for weight in weights]
    found = draw_component(keys, torch.zeros(many, dtype=torch.long), columns)[:, 0].tolist()
    assert all(weights[number] > 0 for number in found)
    pairs = [(seed_key(row), 0) for row in range(many)]
    assert found == [components.draw_component_on_host(*pair, weights) for pair in pairs]
    if at is None:
        exact = [Fraction(column[0].item()) for column in columns]
        for row in range(many):
            assert found[row] == component(seed_key(row), 0, exact) or sum(exact) < 1e-36


def test_rows_do_not_depend_on_who_is_beside_them() -> None:
    decoder = table("mix(w: a, 0.5: b, 1-w: c)", params={"w": 0.5})
    prompts, seeds = [[i % V, 3] for i in range(9)], [7 * i for i in range(9)]
    values = {"w": [i / 8 for i in range(9)]}
    settings: dict[str, Any] = {"max_new_tokens": 20}
    together = tokens(decoder, prompts, seed=seeds, params=values, **settings)
    for size in (1, 2, 4):
        found = tokens(decoder, prompts, seed=seeds, params=values, batch_size=size, **settings)
        assert found == together
    samples = tokens(decoder, [1, 2], seed=4, num_return_sequences=3, **settings)
    voices = [lambda t, n=name: TABLES[n].table[[2, *t][-1]] for name in "abc"]
    assert samples == [
        rollout(voices, [0.5, 0.5, 0.5], 4, 20, sample=number)[0] for number in range(3)
    ]


def test_every_way_to_decode_gives_the_same_tokens(compiled) -> None:
    decoder = compiled("mix(0.6: base, 0.4: arm)")
    settings: dict[str, Any] = {**ASKED, "seed": 3, "max_new_tokens": 30}
    [one] = decoder.generate("the river", **settings)
    assert "".join(decoder.stream("the river", **settings)) == one.text
    [(_, same)] = decoder.as_completed("the river", **settings)
    assert same.token_ids == one.token_ids
    stop = one.text[4:6]
    [cut] = decoder.generate("the river", **settings, stop_strings=stop)
    assert (cut.text, cut.finish_reason) == (one.text[: one.text.index(stop)], "stop")
    settings |= {"sample_components": False, "temperature": 1}
    assert tokens(decoder, "the river", **settings) != [one.token_ids]


def test_one_component_is_the_model_itself() -> None:
    expected = tokens(table("a"), [[1], [2]], sample_components=False, temperature=1, seed=9)
    assert tokens(table("mix(1: a)"), [[1], [2]], seed=9) == expected


SERVED = ("mix(0.5: base, 0.3: arm, 0.2: lora4)", "base + arm")


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in ("base", "arm")}
    named |= {name: zoo.adapter(name) for name in LORA if LORA[name][0] == "base"}
    return {name: make_spec(name, said) for name, said in named.items()}


def served(specs: dict[str, Any], live: Any = None) -> list[list[int]]:
    """Rows with and without, and of another formula over the same lanes, as they come and go."""
    service = Service(specs, slots=5, max_model_len=64)
    decoders = [service.decoder(formula) for formula in SERVED]
    if live is not None:
        for decoder in decoders:
            live(decoder)
    requests: list[Any] = []
    ended: dict[int, list[int]] = {}

    def step() -> None:
        for answer in service.step():
            assert answer.error is None
            if answer.finish_reason is not None:
                ended[id(answer.request)] = [*answer.tokens]
        assert not service.failures

    for number in range(12):
        requests += service.submit(
            decoders[number % 4 == 3], [1, *range(5 + number, 9 + 2 * number)], temperature=1,
            max_new_tokens=6 + 3 * (number % 4), seed=number, eos_token_id=[*range(0, 300, 17)],
            sample_components=number % 4 < 2,
        )  # fmt: skip
        step()
    while len(ended) < len(requests):
        step()
    return [ended[id(request)] for request in requests]


def alone(specs: dict[str, Any]) -> list[list[int]]:
    """The same requests, one after the other."""
    decoders = [descant.compile(formula, specs) for formula in SERVED]
    return [
        decoders[number % 4 == 3].generate(
            [1, *range(5 + number, 9 + 2 * number)], temperature=1, seed=number,
            max_new_tokens=6 + 3 * (number % 4), eos_token_id=[*range(0, 300, 17)],
            sample_components=number % 4 < 2,
        )[0].token_ids
        for number in range(12)
    ]  # fmt: skip


def test_a_service_has_rows_with_and_without(specs) -> None:
    assert served(specs) == alone(specs)


def test_a_service_that_records_has_rows_with_and_without(specs, monkeypatch) -> None:
    expected = alone(specs)
    live = on_tape(monkeypatch)
    assert served(specs, live) == expected
    assert Tape.made


RECORDED = ("mix(w: base, 1-w: arm)", "mix(0.3: base, w: lora4, 0.7: arm)")


@pytest.mark.parametrize("formula", RECORDED)
def test_a_replay_is_the_step(compiled, monkeypatch, formula) -> None:
    """Which lanes run, the host says from its own numbers, and a recording holds for these."""
    settings: dict[str, Any] = {
        "seed": SEEDS, "params": {"w": WEIGHTS}, "max_new_tokens": 30, "batch_size": 3,
    }  # fmt: skip
    expected = tokens(compiled(formula, params={"w": 0.5}, capture=False), PROMPTS, **settings)
    live = on_tape(monkeypatch)
    decoder = live(compiled(formula, params={"w": 0.5}))
    assert tokens(decoder, PROMPTS, **settings) == expected
    assert tokens(decoder, PROMPTS, **settings) == expected
    assert decoder.session.engine.graphs.why_eager is None
    assert sum(tape.replays for tape in Tape.made) > 2 * len(Tape.made) > 2
    counts = decoder.session.engine.step.forwards
    assert min(counts) < max(counts) < decoder.session.engine.stats.steps * 2
