"""Every published rule that the language can say, held against plain code written from its paper.

Each row is a line of the cookbook: the formula, values for its parameters, and the rule. The rows
of one batch have parameters of their own; scores are compared along the greedy text, and greedy ids
token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import BOS, moved, renumbered, tokenizer, turned
from reference_rules import arithmetic, experts, gates, genarm, mixtures, plain, rewards, sums

PROMPTS = ["the river", "def add(one, two): return", "a"]
BIAS, NEGATIVE = "You are unkind.", "You are wrong."
TOLERANCE = 1e-4
# The same rules over other weights: which checkpoint stands where.
SEEDS = [
    {"base": "base", "arm": "arm", "arm2": "arm2", "strong": "strong", "rm": "rm", "rm2": "rm2"},
    {"base": "arm2", "arm": "strong", "arm2": "base", "strong": "arm", "rm": "rm2", "rm2": "rm"},
    {"base": "strong", "arm": "base", "arm2": "arm", "strong": "arm2", "rm": "rm", "rm2": "rm2"},
]
Rule = Callable[[Any, "Text", Mapping[str, float]], torch.Tensor]


@dataclass(frozen=True)
class Text:
    """A prompt and what has been generated."""

    prompt: str
    made: list[int]

    def ids(self, system: str = "") -> list[int]:
        """What a model under a system prompt has read."""
        said = f"{system}\n{self.prompt}" if system else self.prompt
        return tokenizer()(said)["input_ids"] + self.made

    @property
    def alone(self) -> list[int]:
        """What a model that sees no prompt has read."""
        return [BOS, *self.made]


@dataclass(frozen=True)
class Row:
    """One method: its formula, the parameters of each row of the batch, and its rule.

    Attributes:
        shifted: the rule is over raw logits, or renormalises, so that a constant may differ.
        tokens: how many are generated.
        seeds: how many of SEEDS are tried.
    """

    formula: str
    values: list[dict[str, float]]
    rule: Rule
    shifted: bool = False
    tokens: int = 6
    seeds: int = len(SEEDS)


def each(**values: tuple[float, float, float]) -> list[dict[str, float]]:
    """Values for each row of the batch."""
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def judged(model: Any) -> rewards.Judge:
    return lambda ids: plain.reward(model, ids)


def both(m: Any, one: float, two: float) -> rewards.Judge:
    return lambda ids: one * plain.reward(m.rm, ids) + two * plain.reward(m.rm2, ids)


def worst(m: Any, one: float, two: float) -> rewards.Judge:
    return lambda ids: min(one * plain.reward(m.rm, ids), two * plain.reward(m.rm2, ids))


def classed(m: Any, label: int) -> rewards.Judge:
    return lambda ids: plain.class_logprob(m.clf, ids, label)


def voices(m: Any, t: Text) -> list[Any]:
    """The base and the model of another vocabulary, their tokens, and what each has read."""
    ours, theirs = tokenizer().get_vocab(), m.far.tokenizer.get_vocab()
    split = m.far.tokenizer.backend_tokenizer.model.tokenize
    made = [
        number
        for token in tokenizer().convert_ids_to_tokens(t.made)
        for number in ([theirs[token]] if token in theirs else [one.id for one in split(token)])
    ]
    read = m.far.tokenizer(t.prompt)["input_ids"] + made
    return [(m.base, ours, t.ids()), (m.far, theirs, read)]


def reranked(m: Any, t: Text, judge: rewards.Judge, k: float, w: float) -> torch.Tensor:
    return rewards.args(plain.logprobs(m.base, t.ids()), judge, t.ids(), int(k), w)


METHODS = {
    "GenARM": Row(
        "base + a*arm", each(a=(1.0, 0.3, 0.0)),
        lambda m, t, p: genarm.scores(m.base, [(m.arm, p["a"])], t.ids()),
    ),
    "GenARM, several objectives": Row(
        "base + h*arm + s*arm2", each(h=(0.5, 0.0, 1.5), s=(0.5, 1.0, -0.5)),
        lambda m, t, p: genarm.scores(m.base, [(m.arm, p["h"]), (m.arm2, p["s"])], t.ids()),
    ),
    "GenARM, weak to strong": Row(
        "strong + a*arm", each(a=(1.0, 0.3, 2.0)),
        lambda m, t, p: genarm.scores(m.strong, [(m.arm, p["a"])], t.ids()),
    ),
    "language-model-arithmetic sum": Row(
        "mean(base + a*arm)", each(a=(1.0, 0.25, -0.6)),
        lambda m, t, p: arithmetic.weighted_mean([m.base, m.arm], [1, p["a"]], t.ids()),
    ),
    "union": Row(
        "max(base, arm)", each(), lambda m, t, p: arithmetic.union(m.base, m.arm, t.ids())
    ),
    "union in a sum": Row(
        "base + c*max(arm, arm2)", each(c=(2.0, 0.5, -1.0)),
        lambda m, t, p: arithmetic.and_a_union(m.base, m.arm, m.arm2, t.ids(), p["c"]),
    ),
    "intersection": Row(
        "min(base, arm)", each(), lambda m, t, p: arithmetic.intersection(m.base, m.arm, t.ids())
    ),
    "self-debiasing": Row(
        "debias(base, base@bias, lam)", each(lam=(50, 10, 0)),
        lambda m, t, p: arithmetic.self_debiasing(m.base, t.ids(), t.ids(BIAS), p["lam"]),
    ),
    "classifier guidance": Row(
        "base | rerank(clf, k=n, w=w, label=1, norm=prefix, keep=all)",
        each(n=(50, 20, 5), w=(1.0, 3.0, -2.0)),
        lambda m, t, p: arithmetic.classifier_guidance(
            m.base, classed(m, 1), t.ids(), int(p["n"]), p["w"], prefix=True
        ),
        tokens=3,
    ),
    "FUDGE": Row(
        "base | rerank(clf, k=200, w=w, label=0, keep=all)", each(w=(1.0, 2.0, 0.5)),
        lambda m, t, p: arithmetic.classifier_guidance(
            m.base, classed(m, 0), t.ids(), 200, p["w"], prefix=False
        ),
        tokens=2, seeds=1,
    ),
    "proxy tuning": Row(
        "base + a*(arm - arm2)", each(a=(1.0, 0.5, 2.0)),
        lambda m, t, p: sums.proxy_tuning(m.base, m.arm, m.arm2, t.ids(), p["a"]), shifted=True,
    ),
    "emulated disalignment": Row(
        "base - a*(arm - arm2)", each(a=(1.0, 0.5, 0.1)),
        lambda m, t, p: sums.emulated_disalignment(m.base, m.arm, m.arm2, t.ids(), p["a"]),
        shifted=True,
    ),
    "DExperts": Row(
        "top_p(base, n) + a*(arm - arm2)", each(n=(0.9, 0.5, 0.99), a=(1.0, 2.0, -0.5)),
        lambda m, t, p: experts.dexperts(m.base, m.arm, m.arm2, t.ids(), p["n"], p["a"]),
        shifted=True,
    ),
    "contrastive decoding": Row(
        "plausible(strong, x) - c*temp(arm, t)",
        each(x=(0.1, 0.5, 0.01), c=(1.0, 0.5, 2.0), t=(0.5, 1.0, 1.5)),
        lambda m, t, p: experts.contrastive(m.strong, m.arm, t.ids(), p["x"], p["c"], p["t"]),
    ),
    "DoLa": Row(
        "plausible(base, x) - head(base, early)", each(x=(0.1, 0.5, 0.01)),
        lambda m, t, p: experts.dola(m.base, t.ids(), 0, p["x"]),
    ),
    "context-aware decoding": Row(
        "(1 + x)*base - x*base@none", each(x=(0.5, 1.0, 0.0)),
        lambda m, t, p: sums.context_aware(m.base, t.ids(), t.alone, p["x"]), shifted=True,
    ),
    "classifier-free guidance": Row(
        "base@neg + g*(base - base@neg)", each(g=(1.5, 3.0, 0.5)),
        lambda m, t, p: sums.classifier_free_guidance(m.base, t.ids(), t.ids(NEGATIVE), p["g"]),
    ),
    "decoding-time realignment": Row(
        "(1-l)*base + l*arm", each(l=(0.5, 1.5, 0.0)),
        lambda m, t, p: sums.realignment(m.base, m.arm, t.ids(), p["l"]), shifted=True,
    ),
    "MOD, reverse KL": Row(
        "u*base + v*arm", each(u=(0.5, 0.2, 1.0), v=(0.5, 0.8, 0.0)),
        lambda m, t, p: sums.mod_reverse([m.base, m.arm], [p["u"], p["v"]], t.ids()),
    ),
    "MOD, forward KL": Row(
        "pmean(-1; u: base, v: arm)", each(u=(0.5, 0.2, 1.0), v=(0.5, 0.8, 0.25)),
        lambda m, t, p: mixtures.mod_forward([m.base, m.arm], [p["u"], p["v"]], t.ids()),
    ),
    "power mean": Row(
        "pmean(p; 0.25: base, 0.75: arm)", each(p=(0.0, 0.5, -2.0)),
        lambda m, t, p: mixtures.power_mean([m.base, m.arm], [0.25, 0.75], t.ids(), p["p"]),
    ),
    "power mean near 0": Row(
        "pmean(p; 0.3: base, 0.7: arm)", each(p=(1e-4, -1e-3, 1e-3)),
        lambda m, t, p: mixtures.power_mean([m.base, m.arm], [0.3, 0.7], t.ids(), p["p"]),
    ),
    "probability ensemble": Row(
        "mix(u: base, v: arm)", each(u=(0.5, 0.9, 0.0), v=(0.5, 0.1, 1.0)),
        lambda m, t, p: mixtures.ensemble([m.base, m.arm], [p["u"], p["v"]], t.ids()),
    ),
    "two vocabularies (GaC, UniTE)": Row(
        "mix(u: base, v: align(far))", each(u=(0.5, 0.9, 0.0), v=(0.5, 0.1, 1.0)),
        lambda m, t, p: mixtures.two_vocabularies(voices(m, t), [p["u"], p["v"]]),
    ),
    "SafeDecoding": Row(
        "where(step < m, mix(0.4: base, 0.6: arm), base)", each(m=(2, 5, 0)),
        lambda m, t, p: mixtures.safe_decoding(
            m.base, m.arm, t.ids(), len(t.made), int(p["m"]), [0.4, 0.6]
        ),
    ),
    "SIA, entropy gate": Row(
        "where(entropy(base) > e, base + a*arm, base)", each(e=(3.5, 3.0, 4.0), a=(1.0, 0.5, 2.0)),
        lambda m, t, p: gates.entropy_gate(m.base, m.arm, t.ids(), p["e"], p["a"]),
    ),
    "nudging": Row(
        "where(max_prob(base) < c, arm, base)", each(c=(0.2, 0.3, 0.15)),
        lambda m, t, p: gates.nudging(m.base, m.arm, t.ids(), p["c"]),
    ),
    "AdaCAD": Row(
        "(1 + js(base, base@none))*base - js(base, base@none)*base@none", each(),
        lambda m, t, p: gates.adacad(m.base, t.ids(), t.alone), shifted=True,
    ),
    "fading guidance": Row(
        "base + g**step*arm", each(g=(0.9, 0.5, 1.5)),
        lambda m, t, p: gates.fading(m.base, m.arm, t.ids(), len(t.made), p["g"]),
    ),
    "entropy-scaled guidance": Row(
        "base + a*entropy(base)*arm", each(a=(1.0, 0.3, 0.0)),
        lambda m, t, p: gates.entropy_scaled(m.base, m.arm, t.ids(), p["a"]),
    ),
    "entropy-set temperature": Row(
        "base | temperature(l + a*entropy(base))", each(l=(0.5, 1.0, 0.1), a=(0.1, 0.5, 0.0)),
        lambda m, t, p: gates.entropy_temperature(m.base, t.ids(), p["l"], p["a"]),
    ),
    "ARGS": Row(
        "base | rerank(rm, k=k, w=w)", each(k=(10, 4, 1), w=(1.5, 5.0, 1.0)),
        lambda m, t, p: reranked(m, t, judged(m.rm), p["k"], p["w"]),
        tokens=4,
    ),
    "ARGS with several rewards": Row(
        "base | rerank(u*rm + v*rm2, k=10, w=1.5)", each(u=(0.7, 1.0, -1.0), v=(0.3, 0.0, 0.5)),
        lambda m, t, p: reranked(m, t, both(m, p["u"], p["v"]), 10, 1.5),
        tokens=3,
    ),
    "the worst of two rewards": Row(
        "base | rerank(min(u*rm, v*rm2), k=10, w=1.5)", each(u=(1.0, 2.0, 0.0), v=(1.0, 0.5, 1.0)),
        lambda m, t, p: reranked(m, t, worst(m, p["u"], p["v"]), 10, 1.5),
        tokens=3,
    ),
    "RAD": Row(
        "base | rerank(rm, k=20, w=b, clamp=(lo, hi))",
        each(b=(50, 5, 1), lo=(0, -0.5, -1), hi=(1, 0.5, 3)),
        lambda m, t, p: rewards.rad(
            m.base, judged(m.rm), t.ids(), 20, p["b"], p["lo"], p["hi"]
        ),
        tokens=3, seeds=2,
    ),
    "value-augmented sampling": Row(
        "base | rerank(rm, k=k, w=b, norm=center, keep=all)", each(k=(20, 3, 1), b=(1.0, 4.0, 2.0)),
        lambda m, t, p: rewards.value_augmented(
            m.base, judged(m.rm), t.ids(), int(p["k"]), p["b"]
        ),
        tokens=3,
    ),
    "PARGS": Row(
        "top_k(base, 10) | rerank(rm, k=10, w=w)", each(w=(1.0, 4.0, 0.0)),
        lambda m, t, p: rewards.partial(m.base, judged(m.rm), t.ids(), 10, p["w"]),
        shifted=True, tokens=3,
    ),
    "everything at once": Row(
        "base + h*arm + s*arm2 | rerank(rm, k=10, w=1.5)", each(h=(0.5, 0.2, 0.0), s=(0.5, 0.8, 1)),
        lambda m, t, p: rewards.args(
            genarm.scores(m.base, [(m.arm, p["h"]), (m.arm2, p["s"])], t.ids()),
            judged(m.rm), t.ids(), 10, 1.5,
        ),
        tokens=3,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def clf() -> Any:
    """A classifier of two classes."""
    from checkpoints import _sizes
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(8)
    return LlamaForSequenceClassification(LlamaConfig(num_labels=2, **_sizes())).eval()


@pytest.fixture(scope="module")
def far(zoo) -> Any:
    """A model of 260 tokens in another order, 20 of them with strings that no other model has."""
    old = tokenizer().get_vocab()
    order = sorted((token for token in old if old[token] < 260), key=turned().get)
    model = moved(zoo.model("gpt2"), {token: i for i, token in enumerate(order)})
    strings = [f"{token}?" if 200 <= old[token] < 220 else token for token in order]
    model.tokenizer = renumbered({string: i for i, string in enumerate(strings)})
    return model


def same(found: torch.Tensor, expected: torch.Tensor, shifted: bool) -> None:
    """The same tokens excluded, and the same scores of the others; a constant may be allowed."""
    kept = expected > -torch.inf
    assert torch.equal(found > -torch.inf, kept)
    if shifted:
        found, expected = torch.log_softmax(found, -1), torch.log_softmax(expected, -1)
    scale = expected[kept].abs().max().clamp(min=10) / 10  # a weight of 50 makes scores of 100
    assert (found - expected)[kept].abs().max() < TOLERANCE * scale


def cases() -> list[Any]:
    return [
        pytest.param(row, seed, id=f"{name}-{seed}")
        for name, row in METHODS.items()
        for seed in range(row.seeds)
    ]


@pytest.mark.pages(seed=0)
@pytest.mark.parametrize(("row", "seed"), cases())
def test_the_formula_is_the_rule(zoo, compiled, clf, far, row, seed) -> None:
    values = row.values or [{}] * len(PROMPTS)
    lists = {name: [one[name] for one in values] for name in values[0]}
    loaded = {role: zoo.model(name) for role, name in SEEDS[seed].items()} | {"clf": clf}
    models = {role: {"model": one, "tokenizer": tokenizer()} for role, one in loaded.items()}
    models["early"] = {"head": "own", "on": "base", "layer": 0}
    models["far"], loaded["far"] = {"model": far, "tokenizer": far.tokenizer}, far
    decoder = compiled(
        row.formula, models=models, params=values[0], prompts={"bias": BIAS, "neg": NEGATIVE}
    )
    m = SimpleNamespace(**loaded)
    together = decoder.generate(PROMPTS, params=lists, max_new_tokens=row.tokens, eos_token_id=[])
    for prompt, one, done in zip(PROMPTS, values, together, strict=True):
        found = decoder.scores(prompt, done.token_ids[:-1], params=one)
        for step, token in enumerate(done.token_ids):
            expected = row.rule(m, Text(prompt, done.token_ids[:step]), one)
            same(found[step], expected, row.shifted)
            assert int(expected.argmax()) == token


def test_the_comparison_can_fail() -> None:
    right = torch.tensor([0.0, 1.0, -torch.inf])
    same(right, right.clone(), False)
    same(right + 3, right, True)
    for wrong in (right + 3, right + torch.tensor([0, 1e-3, 0]), torch.tensor([0.0, 1.0, -9.0])):
        with pytest.raises(AssertionError):
            same(wrong, right, False)


def test_a_rule_with_other_numbers_is_another_rule(zoo, far) -> None:
    """Each parameter of each rule decides something, so that the table above compares something."""
    m = SimpleNamespace(**{role: zoo.model(role) for role in SEEDS[0]}, far=far)
    texts = [Text(prompt, made) for prompt in PROMPTS for made in ([], [9, 200, 33])]
    for name, row in METHODS.items():
        if "clf" in row.formula:
            continue
        rows = row.values or [{}]
        for parameter in rows[0]:
            one, *_, two = sorted({values[parameter] for values in rows})
            first, last = ({**rows[0], parameter: value} for value in (one, two))
            differ = any(
                not torch.allclose(row.rule(m, text, first), row.rule(m, text, last), atol=1e-2)
                for text in texts
            )
            assert differ or name == "power mean near 0", (name, parameter)
