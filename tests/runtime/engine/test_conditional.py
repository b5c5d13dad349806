"""What no row needs is not run; and what was left out for a while goes on as if it had been read.

Forwards are counted by hooks on the models and by the engine; tokens and scores are held against
full recompute, with no cache and one text at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from checkpoints import BOS, LORA, MODELS, fresh, tokenizer
from reference_rules import plain

import descant
from descant.models.combinations import BARE

PROMPTS = ["the river", "a", "def add(one, two): return", "stone é", "to the sea and on"]
MADE = [9, 200, 33, 4, 77, 250]
ANSWERS: dict[tuple, Any] = {}


def ids(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


class Text:
    """What has been read so far, and what each checkpoint says of it, from scratch."""

    def __init__(self, zoo: Any, prompt: str, made: Sequence[int], params: Mapping[str, float]):
        self.zoo, self.prompt, self.made, self.params = zoo, ids(prompt), list(made), params
        self.step = len(self.made)

    def __getattr__(self, name: str) -> torch.Tensor:
        if name in self.params:
            return self.params[name]
        return self._once(plain.logprobs, name, self.prompt + self.made)

    def alone(self, name: str) -> torch.Tensor:
        return self._once(plain.logprobs, name, [BOS, *self.made])

    def reward(self, *token: int, name: str = "rm") -> float:
        return self._once(plain.reward, name, [*self.prompt, *self.made, *token])

    def _once(self, ask: Callable, name: str, text: Sequence[int]) -> Any:
        """The answer of a checkpoint to a text; the same question is asked once."""
        key = (name, *text)
        if key not in ANSWERS:
            model = self.zoo.model(name)
            ANSWERS[key] = ask(model.base_model.model if name == "lora_rm" else model, text)
        return ANSWERS[key]

    def rerank(
        self, lp: torch.Tensor, k: int, w: float, *, norm: str = "none", keep: str = "candidates",
        clamp: tuple[float, float] = (-math.inf, math.inf), judge: Callable | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The stage, in loops."""
        judge = judge or self.reward
        best = [v for v in lp.topk(k).indices.tolist() if lp[v] > -math.inf]
        found = [judge(token) for token in best]
        match norm:
            case "center":
                found = [r - sum(found) / len(found) for r in found]
            case "minmax":
                found = [(r - min(found)) / (max(found) - min(found)) for r in found]
            case "prefix":
                found = [r - judge() for r in found]
        out = lp.clone() if keep == "all" else torch.full_like(lp, -math.inf)
        for token, r in zip(best, found, strict=True):
            out[token] = lp[token] + w * min(max(r, clamp[0]), clamp[1])
        return out


def loaded(zoo: Any, formula: str) -> dict[str, Any]:
    """The checkpoints of a formula, in memory, and what its adapters are on."""
    named = set(re.findall(r"\w+", formula))
    named |= {LORA[name][0] for name in named & set(LORA)}
    return {
        name: {"model": zoo.model(name), "tokenizer": tokenizer()} for name in named & set(MODELS)
    }


def entropy(lp: torch.Tensor) -> float:
    return -(lp.exp() * lp).sum().item()


Rule = Callable[[Text], torch.Tensor]


def greedy(rule: Rule, zoo: Any, prompt: str, params: Mapping[str, float], most: int) -> list[int]:
    made: list[int] = []
    while len(made) < most:
        made.append(int(rule(Text(zoo, prompt, made, params)).argmax()))
    return made


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found > -math.inf, expected > -math.inf)
    kept = expected > -math.inf
    torch.testing.assert_close(found[kept], expected[kept], atol=2e-4, rtol=1e-4)


def hold(compiled: Any, zoo: Any, formula: str, rule: Rule, values: dict[str, list[float]]) -> None:
    """Greedy in batches of every size, rows joining when others end, and forced along a text."""
    rows = [dict(zip(values, one, strict=True)) for one in zip(*values.values(), strict=True)]
    rows = rows or [{}] * len(PROMPTS)
    decoder = compiled(formula, loaded(zoo, formula), params=rows[0])
    pairs = list(zip(PROMPTS, rows, strict=True))
    whole = [greedy(rule, zoo, prompt, one, 6) for prompt, one in pairs]
    ends = [whole[0][2], whole[3][4]]
    for batch_size, eos in ((5, []), (2, ends)):
        together = decoder.generate(
            PROMPTS, max_new_tokens=6, params=values, batch_size=batch_size, eos_token_id=eos
        )
        for found, tokens in zip(together, whole, strict=True):
            at = next((i for i, token in enumerate(tokens) if token in eos), len(tokens))
            assert found.token_ids == tokens[: at + 1]
    for prompt, one in pairs[2:3]:
        scores = decoder.scores(prompt, MADE, params=one)
        for i, row in enumerate(scores):
            agree(row, rule(Text(zoo, prompt, MADE[:i], one)))


CONDITIONAL: list[tuple[str, Rule, dict[str, list[float]]]] = [
    ("where(step < 2, base, arm)", lambda t: t.base if t.step < 2 else t.arm, {}),
    ("where(step > 3 and step < 6, base + arm, base)",
     lambda t: t.base + t.arm if 3 < t.step < 6 else t.base, {}),
    ("where(step >= n, arm, base)", lambda t: t.arm if t.step >= t.n else t.base,
     {"n": [1, 5, 0, 9, 3]}),
    ("where(entropy(base) > e, base + arm, base)",
     lambda t: t.base + t.arm if entropy(t.base) > t.e else t.base,
     {"e": [3.5, 4.0, 3.0, 99, 0]}),
    ("where(not max_prob(arm) < 0.2 or step < 1, base, gpt2)",
     lambda t: t.base if t.arm.max().exp() >= 0.2 or t.step < 1 else t.gpt2, {}),
    ("base + where(step < 3, 0.5*arm, a*strong)",
     lambda t: t.base + (0.5 * t.arm if t.step < 3 else t.a * t.strong),
     {"a": [1, 0, -0.5, 0.25, 2]}),
    ("where(step < 2, lora4, base + 0.5*lora8)",
     lambda t: t.lora4 if t.step < 2 else t.base + 0.5 * t.lora8, {}),
    ("where(step < n, arm, gpt2 + 0.5*lora_gpt2)",
     lambda t: t.arm if t.step < t.n else t.gpt2 + 0.5 * t.lora_gpt2, {"n": [3, 0, 9, 5, 1]}),
    ("where(step < n, arm, mistral)", lambda t: t.arm if t.step < t.n else t.mistral,
     {"n": [5, 6, 2, 0, 4]}),
    ("where(step < 4, arm, base - 0.5*base@none)",
     lambda t: t.arm if t.step < 4 else t.base - 0.5 * t.alone("base"), {}),
    ("where(step < 2, base, where(step < n, arm, strong))",
     lambda t: t.base if t.step < 2 else t.arm if t.step < t.n else t.strong,
     {"n": [1, 4, 5, 0, 3]}),
    ("where(step < n, arm, (base | rerank(rm, k=4, w=2)))",
     lambda t: t.arm if t.step < t.n else t.rerank(t.base, 4, 2), {"n": [3, 0, 9, 5, 1]}),
    ("where(step < n, arm, top_k(base, 6)) | rerank(rm, k=4, w=2)",
     lambda t: t.rerank(t.arm if t.step < t.n else t.base, 4, 2), {"n": [3, 0, 9, 5, 1]}),
    ("where(entropy((base | rerank(rm, k=9, w=3))) > 1, arm, base)",
     lambda t: t.arm if entropy_of(t.rerank(t.base, 9, 3)) > 1 else t.base, {}),
]  # fmt: skip


def entropy_of(scores: torch.Tensor) -> float:
    shares = scores.softmax(-1)
    return -(shares[shares > 0] * shares[shares > 0].log()).sum().item()


@pytest.mark.pages
@pytest.mark.parametrize(
    ("formula", "rule", "values"), CONDITIONAL, ids=[one[0] for one in CONDITIONAL]
)
def test_what_was_left_out_goes_on_as_if_read(zoo, compiled, formula, rule, values) -> None:
    hold(compiled, zoo, formula, rule, values)


W = {"w": [1.5, 0.0, -1.0, 3.0, 0.5]}


def nested(t: Text, **options: Any) -> torch.Tensor:
    return t.rerank(t.base, 5, t.w, **options)


def several(t: Text) -> Callable[..., float]:
    return lambda *token: t.w * t.reward(*token) - 0.5 * t.reward(*token, name="rm2") + 1


RERANKS: list[tuple[str, Rule]] = [
    ("base | rerank(rm, k=5, w=w, keep=all)", lambda t: nested(t, keep="all")),
    ("base | rerank(rm, k=5, w=w, norm=prefix)", lambda t: nested(t, norm="prefix")),
    ("base | rerank(rm, k=5, w=w, norm=center, keep=all)",
     lambda t: nested(t, norm="center", keep="all")),
    ("base | rerank(rm, k=5, w=w, norm=minmax)", lambda t: nested(t, norm="minmax")),
    ("base | rerank(rm, k=5, w=w, norm=prefix, clamp=(-1.5, w), keep=all)",
     lambda t: nested(t, norm="prefix", clamp=(-1.5, t.w), keep="all")),
    ("top_k(base, 3) | rerank(rm, k=5, w=w, norm=center)",
     lambda t: t.rerank(t.base, 3, t.w, norm="center")),
    ("(base | rerank(rm, k=5, w=w)) + 0.5*arm", lambda t: nested(t) + 0.5 * t.arm),
    ("max((base | rerank(rm, k=5, w=w)), arm)", lambda t: torch.maximum(nested(t), t.arm)),
    ("(base | rerank(rm, k=5, w=w)) + max((base | rerank(rm, k=5, w=w)), arm)",
     lambda t: nested(t) + torch.maximum(nested(t), t.arm)),
    ("mix(0.5: (base | rerank(rm, k=5, w=w)), 0.5: arm) | rerank(rm, k=3)",
     lambda t: t.rerank(
         (0.5 * nested(t).softmax(-1) + 0.5 * t.arm.exp()).log(), 3, 1)),
    ("((base | rerank(rm, k=5, w=w)) + arm | rerank(rm2, k=3, w=2)) + 0*base",
     lambda t: t.rerank(nested(t) + t.arm, 3, 2, judge=lambda *v: t.reward(*v, name="rm2"))),
    ("base | rerank(rm, k=5, w=w, keep=all) | rerank(rm2, k=3, w=1)",
     lambda t: t.rerank(nested(t, keep="all"), 3, 1, judge=lambda *v: t.reward(*v, name="rm2"))),
    ("base | rerank(rm, k=5, w=w) | rerank(rm, k=3, w=1, norm=prefix, keep=all)",
     lambda t: t.rerank(nested(t), 3, 1, norm="prefix", keep="all")),
    ("base | rerank(lora_rm, k=5, w=w, keep=all)",
     lambda t: nested(t, keep="all", judge=lambda *v: t.reward(*v, name="lora_rm"))),
    ("base | rerank(w*rm - 0.5*rm2 + 1, k=4, w=2, clamp=(-1, 1), keep=all)",
     lambda t: t.rerank(t.base, 4, 2, clamp=(-1, 1), keep="all", judge=several(t))),
]  # fmt: skip


@pytest.mark.pages
@pytest.mark.parametrize(("formula", "rule"), RERANKS, ids=[one[0] for one in RERANKS])
def test_every_way_to_rerank_is_full_recompute(zoo, compiled, formula, rule) -> None:
    hold(compiled, zoo, formula, rule, W)


class Runs:
    """How often a model in memory ran, and how many tokens each time; its prompts too."""

    def __init__(self, zoo: Any, name: str) -> None:
        model = fresh(zoo.path(name))
        self.queries: list[int] = []
        model.get_input_embeddings().register_forward_hook(
            lambda module, args, output: self.queries.append(output.shape[:2].numel())
        )
        self.spec = {"model": model, "tokenizer": tokenizer()}


def counted(zoo: Any, compiled: Any, formula: str, *names: str, **more: Any) -> tuple[Any, ...]:
    runs = [Runs(zoo, name) for name in names]
    specs = {name: one.spec for name, one in zip(names, runs, strict=True)}
    return compiled(formula, models=specs, **more), *runs


def forwards(decoder: Any) -> dict[str, int]:
    """Forwards of each lane since it was bound, prompts left out."""
    return dict(
        zip(decoder.session.bound.lane_names, decoder.session.engine.step.forwards, strict=True)
    )


def test_a_side_is_run_only_while_a_row_takes_it(zoo, compiled) -> None:
    decoder, base, arm = counted(zoo, compiled, "where(step < 2, base, arm)", "base", "arm")
    decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    assert forwards(decoder) == {"base": 2, "arm": 4}
    longest, rows = max(len(ids(prompt)) for prompt in PROMPTS), len(PROMPTS)
    prompts = rows * (longest - 1)
    assert base.queries == [prompts, rows, rows]
    assert arm.queries == [
        prompts,
        3 * rows,
        rows,
        rows,
        rows,
    ]  # with what it missed, and its turns


def test_what_a_condition_looks_at_is_run_and_the_rest_is_not(zoo, compiled) -> None:
    formula = "where(entropy(base) > e, base + arm, base)"
    decoder, base, arm = counted(zoo, compiled, formula, "base", "arm", params={"e": 99})
    decoder.generate(PROMPTS, max_new_tokens=5, eos_token_id=[])
    assert forwards(decoder) == {"base": 5, "arm": 0}
    assert len(base.queries) == 6 and len(arm.queries) == 1
    values = {"e": [99, 99, 0, 99, 99]}
    decoder.generate(PROMPTS, max_new_tokens=5, eos_token_id=[], params=values)
    assert forwards(decoder) == {"base": 10, "arm": 5}


def test_conditions_on_numbers_alone_are_of_a_row(zoo, compiled) -> None:
    formula = "where(a < 0.5, base, where(a < 1, arm, strong))"
    decoder, *_ = counted(zoo, compiled, formula, "base", "arm", "strong", params={"a": 0})
    settings = {"max_new_tokens": 3, "eos_token_id": []}
    decoder.generate(PROMPTS, **settings)
    assert forwards(decoder) == {"base": 3, "arm": 0, "strong": 0}
    decoder.generate(PROMPTS, params={"a": [0, 0.75, 0, 0.75, 0]}, **settings)
    assert forwards(decoder) == {"base": 6, "arm": 3, "strong": 0}
    decoder.generate(PROMPTS, params={"a": 2}, **settings)
    assert forwards(decoder) == {"base": 6, "arm": 3, "strong": 3}


def test_a_row_that_does_not_take_a_side_has_no_say_inside_it(zoo, compiled) -> None:
    """The inner condition holds only for rows that are not there, so that its side is not run."""
    formula = "where(a > 0, where(b > 0, arm, base), base)"
    decoder, *_ = counted(zoo, compiled, formula, "base", "arm", params={"a": 0, "b": 0})
    values = {"a": [1, 0, 1, 0, 1], "b": [0, 1, 0, 1, 0]}
    decoder.generate(PROMPTS, max_new_tokens=3, eos_token_id=[], params=values)
    assert forwards(decoder) == {"base": 3, "arm": 0}


def test_a_row_that_gives_a_condition_no_weight_has_no_say_in_it(zoo, compiled) -> None:
    for formula in (
        "base + a*where(b > 0, arm, strong)",
        "mix(1: base, a: where(b > 0, arm, strong))",
    ):
        names = ("base", "arm", "strong")
        decoder, *_ = counted(zoo, compiled, formula, *names, params={"a": 0, "b": 0})
        values = {"a": [1, 0, 1, 0, 2], "b": [1, 0, 1, 0, 1]}
        settings = {"max_new_tokens": 3, "eos_token_id": []}
        found = decoder.generate(PROMPTS, params=values, **settings)
        assert forwards(decoder) == {"base": 3, "arm": 3, "strong": 0}
        for i, (prompt, one) in enumerate(zip(PROMPTS, found, strict=True)):
            own = {name: each[i] for name, each in values.items()}
            [alone] = decoder.generate(prompt, params=own, **settings)
            assert alone.token_ids == one.token_ids


def test_a_side_that_no_row_takes_asks_nothing(zoo, compiled) -> None:
    """The rows on the inner side all weigh it with 0, and those that do not are elsewhere."""
    formula = "where(b > 0, base, base + a*where(step < 9, arm, strong))"
    names = ("base", "arm", "strong")
    decoder, *_ = counted(zoo, compiled, formula, *names, params={"a": 0, "b": 0})
    values = {"a": [1, 0, 1, 0, 1], "b": [1, 0, 1, 0, 1]}
    decoder.generate(PROMPTS, params=values, max_new_tokens=3, eos_token_id=[])
    assert forwards(decoder) == {"base": 3, "arm": 0, "strong": 0}


def test_nan_on_the_side_that_a_row_does_not_take_is_not_its_error() -> None:
    """A row goes on beside another that takes the side, and the one that takes it is named."""
    table = descant.TableModel.random(12, seed=2).table.clone()
    table[5] = math.nan
    models = {"base": descant.TableModel.random(12, seed=1), "arm": descant.TableModel(table)}
    decoder = descant.compile("where(a > 0, arm, base)", models=models, params={"a": 0})
    settings = {"max_new_tokens": 1, "params": {"a": [0, 1]}}
    [one, _] = decoder.generate([[5], [1]], **settings)
    assert one.token_ids == decoder.generate([5], max_new_tokens=1)[0].token_ids
    with pytest.raises(descant.FormulaError, match="arm gave NaN for row 1, token 0"):
        decoder.generate([[5], [5]], **settings)


def test_a_reward_inside_a_side_is_asked_only_then(zoo, compiled) -> None:
    formula = "where(step < 3, base, (base | rerank(rm, k=4)))"
    decoder, runs = counted(zoo, compiled, formula, "rm")
    decoder.generate(PROMPTS, max_new_tokens=5, eos_token_id=[])
    assert forwards(decoder) == {"base": 5, "rm": 2}
    rows = len(PROMPTS)  # with what it missed; and the last token and four candidates of each
    assert runs.queries[1:] == [(3 + 5) * rows, 5 * rows]


def test_two_equal_reranks_ask_once(zoo, compiled) -> None:
    formula = "(base | rerank(rm, k=4)) + max((base | rerank(rm, k=4)), arm)"
    decoder, runs = counted(zoo, compiled, formula, "rm")
    decoder.generate(PROMPTS, max_new_tokens=5, eos_token_id=[])
    assert forwards(decoder)["rm"] == 5 and len(runs.queries) == 6


def join(lane, prompt) -> None:
    """Read a prompt into a new row."""
    reading = lane.admit([prompt], [BARE])
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value()


def test_catching_up_stays_within_the_positions_of_a_model(zoo) -> None:
    """A row that has little to catch up with beside one that has much, near the last position."""
    from descant.models.lanes.transformers_lane import TransformersLane

    model = fresh(zoo.path("gpt2"))
    lane = TransformersLane(model, 300, False)
    lane.reserve(2, 96)
    texts = [[5 + i % 90 for i in range(30)], [7 + i % 80 for i in range(62)]]
    join(lane, texts[0][:9])
    for token in texts[0][9:]:
        lane.feed(torch.tensor([token]))
    join(lane, texts[1])
    for row, text in zip(lane.logits(), texts, strict=True):
        agree(row.log_softmax(-1), plain.logprobs(model, text))


BATCHED = [
    "mix(0.7: base, a*a: arm)",
    "pmean(a; 0.3: base, 0.7: arm)",
    "max(base, arm + a) - 0.5*lora4",
    "min(base, top_k(arm, 20)) + a*base@none",
    "temp(mean(2*base + a*arm), 0.7) | top_p(0.9)",
    "plausible(base, 0.1) - a*temp(arm, 0.5)",
    "debias(base, arm, 10*a + 9) | min_p(0.05)",
    "top_p(base, 0.9) + a*(arm - lora4)",
    "where(entropy(base) > 3 + a, base + arm, base) | rerank(rm, k=4, w=a, keep=all)",
    "where(step < 4*a, base, max((arm | rerank(rm, k=4)), base))",
    "base + a*where(step < 2, temp(a*arm + base, 2), strong) | repetition_penalty(1.3)",
    "(base | rerank(rm, k=5, w=a, norm=minmax)) + a*(arm | top_k(290)) | rerank(rm2, k=3)",
    "where(max_prob(base) < 0.2, arm, base) | rerank(rm, k=3, w=1, norm=prefix) | temperature(2)",
]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("formula", BATCHED)
def test_a_row_is_what_it_is_alone(zoo, compiled, formula, temperature) -> None:
    values = [0.5, 0.0, 1.5, -0.5, 1.0]
    given = {"a": values} if re.search(r"\ba\b", formula) else {}
    decoder = compiled(formula, loaded(zoo, formula), params={"a": 0.5} if given else None)
    settings = {"max_new_tokens": 6, "temperature": temperature}
    seeds = list(range(len(PROMPTS)))
    alone = []
    for i, prompt in enumerate(PROMPTS):
        one = {"a": values[i]} if given else {}
        alone += decoder.generate(prompt, params=one, seed=i, **settings)
    for batch_size in (5, 2):
        together = decoder.generate(
            PROMPTS, params=given, seed=seeds, batch_size=batch_size, **settings
        )
        assert [one.token_ids for one in together] == [one.token_ids for one in alone]
