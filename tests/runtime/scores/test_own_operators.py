"""Operators and stages of one's own: what a row gets alone, whatever happens around it.

The rule is a plain loop: the whole text at each step, batch 1, and a state made for that row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from drawn_tokens import MOST, PROMPTS, SAMPLED, V, exchanges, tokens
from hypothesis import given as drawn
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from reference_rules.plain import logprobs

import descant
from descant.runtime.scores.noise import gumbel, seed_key

Rule = Callable[[list[int], int, Any], tuple[torch.Tensor, Any]]  # text, start, state


def plain(
    rule: Rule, prompt: list[int], temperature: float = 0.0, seed: int = 0, most: int = MOST
) -> list[int]:
    """The answer by a rule: scores of one text, and the state after it."""
    text, key, state = list(prompt), torch.tensor([seed_key(seed)], dtype=torch.int32), None
    for step in range(most):
        scores, state = rule(text, len(prompt), state)
        if temperature:
            scores = scores / temperature + gumbel(key, torch.tensor([step]), len(scores))[0]
        text.append(int(scores.argmax()))
    return text[len(prompt) :]


@pytest.fixture
def models(zoo) -> tuple[Any, Any]:
    return zoo.model("base"), zoo.model("arm")


def contrast_operator() -> None:
    @descant.operator
    def contrast(x: descant.Scores, y: descant.Scores, strength=1.0):
        """What x likes more than y does."""
        return x + strength * (x - y)


# What is computed.


FORMULAS: dict[str, Callable[[Any, Any, float], Any]] = {
    "contrast(base, arm, strength=a)": lambda x, y, a: x + a * (x - y),
    "contrast(base, arm)": lambda x, y, a: 2 * x - y,
    "0.5*contrast(arm, base, a) + base": lambda x, y, a: 0.5 * (y + a * (y - x)) + x,
    "contrast(contrast(base, arm, a), arm, 0.5)": (
        lambda x, y, a: 1.5 * (x + a * (x - y)) - 0.5 * y
    ),
    "contrast(base + 2*arm, mix(0.3: base, 0.7: arm), a)": lambda x, y, a: (
        (1 + a) * (x + 2 * y) - a * torch.log(0.3 * x.exp() + 0.7 * y.exp())
    ),
    "contrast(base, arm, strength=entropy(base))": lambda x, y, a: (
        x - (x.exp() * x).sum() * (x - y)
    ),
    "contrast(base, arm, strength=0.1*step)": None,
    "where(max_prob(base) > 0.02, contrast(base, arm, a), arm)": lambda x, y, a: (
        x + a * (x - y) if x.max().exp() > 0.02 else y
    ),
}


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_an_operator_is_its_function(compiled, models, formula, settings) -> None:
    contrast_operator()
    a = [0.5, -1.0, 2.0, 0.0]
    decoder = compiled(formula, params={"a": 1.0})

    def rule(a: float) -> Rule:
        def of(text: list[int], start: int, state: Any) -> Any:
            x, y = (logprobs(model, text) for model in models)
            if FORMULAS[formula] is None:
                return x + 0.1 * (len(text) - start) * (x - y), None
            return FORMULAS[formula](x, y, a), None

        return of

    pairs = list(zip(a, PROMPTS, strict=True))
    expected = [plain(rule(each), prompt, **settings) for each, prompt in pairs]
    assert tokens(decoder, params={"a": a}, **settings) == expected
    assert [
        tokens(decoder, [prompt], params={"a": each}, **settings)[0] for each, prompt in pairs
    ] == expected
    found = decoder.scores(PROMPTS[0], expected[0][:3], params={"a": a[0]})
    for step, row in enumerate(found):
        text = PROMPTS[0] + expected[0][:step]
        wanted = rule(a[0])(text, len(PROMPTS[0]), None)[0]
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-3)


def test_tokens_that_an_operator_excludes_are_not_drawn(compiled, models) -> None:
    @descant.operator
    def agreed(x, y, least: float = 0.002):
        """x, where y thinks a token probable enough."""
        return x.masked_fill(y < least.log(), float("-inf"))

    expected = []
    for prompt in PROMPTS:

        def rule(text: list[int], start: int, state: Any) -> Any:
            x, y = (logprobs(model, text) for model in models)
            return x.masked_fill(y < torch.tensor(0.002).log(), -torch.inf), None

        expected.append(plain(rule, prompt, **SAMPLED))
    decoder = compiled("agreed(base, arm)")
    assert tokens(decoder, **SAMPLED) == expected
    without = compiled("base - 0.5*agreed(base, arm)").scores(PROMPTS[0], [])
    assert torch.equal(without == -torch.inf, decoder.scores(PROMPTS[0], []) == -torch.inf)
    assert bool((without < torch.inf).all()) and bool((without == -torch.inf).any())


@pytest.mark.parametrize("shift", ["passed", "absorbed"])
def test_a_shift_may_leave_a_log_softmax_out(compiled, shift) -> None:
    """``contrast`` passes a number on; with a log-softmax after it, it absorbs one."""

    @descant.operator(on_shift=shift)
    def own(x, y, strength=0.5):
        scores = x + strength * (x - y)
        return scores.log_softmax(-1) if shift == "absorbed" else scores

    contrast_operator()
    decoder = compiled("own(base, arm) | top_k(20)")
    assert len(decoder.session.engine.step.unnormalised) == 2
    felt = compiled("contrast(base, arm, strength=0.5) | top_k(20)")
    assert not felt.session.engine.step.unnormalised
    assert tokens(decoder, **SAMPLED) == tokens(felt, **SAMPLED)


def test_a_model_of_another_vocabulary(compiled, zoo) -> None:
    """It sees tokens alone, and not the column for what is none."""
    from types import SimpleNamespace

    widths = set()

    @descant.operator
    def contrast(x, y, strength=1.0):
        widths.add((*x.shape[1:], *y.shape[1:]))
        return (x + strength * (x - y)).masked_fill(y == -torch.inf, -torch.inf)

    models = {name: descant.TableModel.random(12, seed=i) for i, name in enumerate(("base", "arm"))}
    for name, letters in (("base", "abcdefghijkl"), ("arm", "lkjihgfedcbA")):
        ids = dict(zip(letters, range(12), strict=True))
        tokenizer = SimpleNamespace(
            decode=lambda ids, **_: "", bos_token_id=None, get_vocab=lambda ids=ids: ids
        )
        models[name] = {"model": models[name], "tokenizer": tokenizer}
    built = descant.compile("base + 0.5*(base - align(arm))", models)
    widths.clear()
    own = descant.compile("contrast(base, align(arm), strength=0.5)", models)
    for prompt in ([3], [5, 2]):
        ours, theirs = own.scores(prompt, [1]), built.scores(prompt, [1])
        torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1))
        assert bool((ours == -torch.inf).any())  # a is no token of the other
    assert widths == {(12, 12)}


# What a state has to follow.


class Memory(NamedTuple):
    """As a tuple of tensors: what was likely so far, and how many tokens it is of."""

    sums: torch.Tensor
    count: torch.Tensor


def fresh(kind: str) -> Any:
    match kind:
        case "tensor":
            return torch.zeros(V)
        case "mapping":
            return {"sums": torch.zeros(V), "count": torch.zeros((), dtype=torch.long)}
        case "tuple":
            return Memory(torch.zeros(V), torch.zeros((), dtype=torch.long))
    return [[]]  # of what it has been given, as it was given


KINDS = ["tensor", "mapping", "tuple", "object"]


def recalled(kind: str, scores: torch.Tensor, other: torch.Tensor, state: Any) -> Any:
    """Depends on all steps before, and is another in each."""
    added = scores.clamp(min=-20) * 0.3
    match kind:
        case "tensor":
            state = state * 0.9 + added
            return other + 0.5 * state.roll(7, dims=-1), state
        case "mapping":
            state = {"sums": state["sums"] + added, "count": state["count"] + 1}
            turned = state["sums"].roll(3, dims=-1) * (1 + state["count"] % 3)[..., None]
            return other + 0.3 * turned, state
        case "tuple":
            state = Memory(state.sums + added, state.count + 1)
            turned = state.sums.roll(5, dims=-1) * (1 + state.count % 2)[..., None]
            return other + 0.4 * turned, state
    rows = []
    for row, (given, own) in enumerate(zip(scores, state, strict=True)):
        own[0].append(given)  # in place, and it keeps what it is given
        old = sum(each.clamp(min=-20).roll(3 * i) for i, each in enumerate(own[0]))
        rows.append(other[row] + 0.3 * old)
    return torch.stack(rows), state


def recall_operator(kind: str) -> None:
    @descant.operator(state=lambda: fresh(kind), vocabulary=V)
    def recall(x, y, *, state):
        return recalled(kind, x, y, state)


def recall_rule(kind: str, models: Any) -> Rule:
    """The same from the models' scores of one whole text."""

    def rule(text: list[int], start: int, state: Any) -> Any:
        state = fresh(kind) if state is None else state
        x, y = (logprobs(model, text) for model in models)
        if kind != "object":
            return recalled(kind, x, y, state)
        scores, [state] = recalled(kind, x[None], y[None], [state])
        return scores[0], state

    return rule


@pytest.mark.pages(kind="tensor", batch_size=3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_state_follows_its_row(compiled, models, kind, batch_size) -> None:
    """Rows end at different times, and others take their slots; the second call is the first."""
    recall_operator(kind)
    many = PROMPTS + [[1, 60 + i, 3] for i in range(4)]
    settings = {"temperature": 0.8, "seed": 5, "eos_token_id": [*range(0, V, 9)]}
    expected = [plain(recall_rule(kind, models), each, 0.8, 5) for each in many]
    ends = [next((i for i, t in enumerate(each) if t % 9 == 0), MOST) for each in expected]
    expected = [each[: end + 1] for each, end in zip(expected, ends, strict=True)]
    decoder = compiled("recall(base, arm)")
    assert len(set(map(len, expected))) > 2
    for _ in range(2):
        assert tokens(decoder, many, batch_size=batch_size, **settings) == expected


@pytest.mark.parametrize("draft", ["base", "arm", "base + arm", "prompt", "auto"])
@pytest.mark.parametrize("kind", ["tensor", "object"])
def test_a_draft_changes_no_token(compiled, models, kind, draft) -> None:
    recall_operator(kind)
    decoder = compiled("recall(base, arm)", draft=draft)
    for settings in ({}, {"temperature": 0.8, "seed": 5}):
        expected = [plain(recall_rule(kind, models), each, **settings) for each in PROMPTS]
        assert tokens(decoder, draft=draft, draft_length=8, **settings) == expected
    if draft.startswith(("base", "arm")):
        assert decoder.session.engine.stats.rounds


def test_a_draft_may_have_an_operator_without_a_state(compiled) -> None:
    contrast_operator()
    decoder = compiled("contrast(base, arm, 0.5)", draft="contrast(base, arm, 0.4)")
    expected = tokens(decoder, **SAMPLED)
    drafted = tokens(decoder, draft="contrast(base, arm, 0.4)", draft_length=4, **SAMPLED)
    assert drafted == expected and decoder.session.engine.stats.rounds
    recall_operator("tensor")
    with pytest.raises(descant.FormulaError) as caught:
        tokens(decoder, draft="0.5*recall(base, arm)", draft_length=4)
    assert caught.value.problem == "recall keeps a state, and a draft keeps none"
    assert str(caught.value).splitlines()[2].rstrip() == "      ^^^^^^^^^^^^^^^^^"


SEARCHES = [
    "best_of(rm, n=3)", "blockwise(rm, beams=2, samples=2, length=3)",
    "blockwise(arm - base, beams=2, samples=2, length=3)",
    "reject(rm, target=1, entropy=3, beta=0.1, retries=3)",
]  # fmt: skip


@pytest.mark.parametrize("draft", [None, "base"])
@pytest.mark.parametrize("kind", ["tensor", "object"])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_state_follows_a_search(compiled, search, kind, draft) -> None:
    """A row that goes on as another, or from before: as with a function of the whole text.

    It makes the state anew from the scores of every beginning of the text.
    """
    known: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    @descant.operator(vocabulary=V)
    def anew(x, y, *, ids, start):
        rows = []
        for row, (text, first) in enumerate(zip(ids, start, strict=True)):
            read = tuple(text.tolist())
            known[read] = x[row].clone(), y[row].clone()
            state = fresh(kind)
            for end in range(first, len(read) + 1):
                before, other = known[read[:end]] if end >= first else (x[row], y[row])
                if kind == "object":
                    [out], [state] = recalled(kind, before[None], other[None], [state])
                else:
                    out, state = recalled(kind, before, other, state)
            rows.append(out)
        return torch.stack(rows)

    recall_operator(kind)
    settings = {"temperature": 0.9, "seed": 8, "max_new_tokens": 14, "eos_token_id": [2, 40, 41]}
    if draft:
        settings |= {"draft": draft, "draft_length": 3}
    expected = tokens(compiled(f"anew(base, arm) | {search}"), **settings)
    decoder = compiled(f"recall(base, arm) | {search}")
    assert tokens(decoder, **settings) == expected
    assert [tokens(decoder, [each], **settings)[0] for each in PROMPTS] == expected
    if draft is None:
        assert tokens(compiled(f"arm | {search}"), **settings) != expected


def test_a_state_changes_in_every_step(compiled, models) -> None:
    """Whichever side of a condition a row takes, and whatever its coefficients are in a step."""
    recall_operator("tensor")
    rule = recall_rule("tensor", models)
    formula = "where(step < 4, arm, a*recall(base, arm) + max(step - 6, 0)*base)"

    def wanted(a: float) -> Rule:
        def of(text: list[int], start: int, state: Any) -> Any:
            own, state = rule(text, start, state)
            x, y = (logprobs(model, text) for model in models)
            step = len(text) - start
            return (y if step < 4 else a * own + max(step - 6, 0) * x), state

        return of

    decoder = compiled(formula, params={"a": 1.0})
    values = [0.5, 1.0, 0.0, 2.0]
    pairs = list(zip(values, PROMPTS, strict=True))
    expected = [plain(wanted(a), prompt, **SAMPLED) for a, prompt in pairs]
    expected[2] = tokens(compiled("where(step < 4, arm, max(step - 6, 0)*base)"), **SAMPLED)[2]
    assert tokens(decoder, params={"a": values}, **SAMPLED) == expected
    for draft in ("arm", "base"):
        more = {"draft": draft, "draft_length": 3}
        assert tokens(decoder, params={"a": values}, **SAMPLED, **more) == expected


def test_a_row_that_has_no_use_for_an_operator_is_not_given(compiled) -> None:
    seen = []

    @descant.operator(state=lambda: torch.zeros(()), vocabulary=V)
    def counted(x, *, state, ids):
        seen.append([each.tolist() for each in ids])
        return x * (1 + 0.1 * state[:, None]), state + 1

    decoder = compiled("a*counted(arm) + base", params={"a": 1.0})
    seen.clear()
    found = tokens(decoder, PROMPTS[:3], params={"a": [0.0, 1.0, 0.0]}, max_new_tokens=3)
    assert seen[0] == [PROMPTS[1]] and all(len(each) == 1 for each in seen)
    assert found[0] == tokens(compiled("base"), PROMPTS[:1], max_new_tokens=3)[0]


def test_one_operator_written_twice_has_one_state(compiled, models) -> None:
    """It is one value: like terms are collected. Other arguments make another."""
    recall_operator("mapping")
    rule = recall_rule("mapping", models)
    swapped = recall_rule("mapping", models[::-1])
    decoder = compiled("recall(base, arm) + temp(recall(base, arm), 2) + recall(arm, base)")

    def both(text: list[int], start: int, state: Any) -> Any:
        first, second = state or (None, None)
        one, first = rule(text, start, first)
        other, second = swapped(text, start, second)
        return one + (one / 2).log_softmax(-1) + other, (first, second)

    assert tokens(decoder) == [plain(both, each) for each in PROMPTS]


def test_states_inside_states(compiled, models) -> None:
    """Also behind a number of the state, and in parentheses with stages."""
    recall_operator("tensor")
    rule = recall_rule("tensor", models)

    @descant.operator(state=lambda: torch.zeros(()))
    def rising(x, y, *, state):
        return x + 0.2 * state[:, None] * y, state + 1

    def nested(text: list[int], start: int, state: Any) -> Any:
        state, step = state or (None, 0)
        own, state = rule(text, start, state)
        y = logprobs(models[1], text)
        cut = own.masked_fill(own < own.topk(40).values[-1], -torch.inf)
        certain = own.softmax(-1).max()
        return cut + 0.2 * step * y + certain * y, (state, step + 1)

    formula = "rising((recall(base, arm) | top_k(40)), arm) + max_prob(recall(base, arm))*arm"
    decoder = compiled(formula)
    assert tokens(decoder, **SAMPLED) == [plain(nested, each, **SAMPLED) for each in PROMPTS]
    drafted = tokens(decoder, draft="arm", draft_length=3, **SAMPLED)
    assert drafted == [plain(nested, each, **SAMPLED) for each in PROMPTS]


@pytest.mark.parametrize("kind", ["tensor", "object"])
def test_a_log_likelihood_has_the_states_of_its_tokens(compiled, models, kind) -> None:
    recall_operator(kind)
    decoder = compiled("recall(base, arm)")
    rule = recall_rule(kind, models)
    answers = [plain(rule, each) for each in PROMPTS]
    found = decoder.loglikelihood(PROMPTS, answers)
    for prompt, answer, one in zip(PROMPTS, answers, found, strict=True):
        expected, state = [], None
        for end, token in enumerate(answer):
            scores, state = rule([*prompt, *answer[:end]], len(prompt), state)
            expected.append(float(scores.log_softmax(-1)[token]))
        assert one.logprobs == pytest.approx(expected, abs=5e-4) and one.is_greedy
        scores = decoder.scores(prompt, answer)
        assert scores[:-1].argmax(dim=-1).tolist() == answer


@pytest.mark.parametrize("beams", [1, 3])
def test_a_loop_of_transformers_exchanges_rows(compiled, models, beams) -> None:
    """Beam search over a formula, its rows side by side and one after the other."""
    recall_operator("tuple")
    base, arm = models
    decoder = compiled("recall(base, arm)", models={"base": base, "arm": arm})
    prompts, together = exchanges(decoder, base, beams)
    if beams == 1:
        rule = recall_rule("tuple", models)
        assert together == [plain(rule, each, most=8) for each in prompts]


def test_generate_of_transformers_decodes_with_a_state(compiled, models) -> None:
    recall_operator("tensor")
    base, arm = models
    decoder = compiled("recall(base, arm)", models={"base": base, "arm": arm})
    rule = recall_rule("tensor", models)
    for prompt in PROMPTS[:2]:
        out = base.generate(
            torch.tensor([prompt]), custom_generate=decoder, max_new_tokens=6, do_sample=False
        )
        assert out[0, len(prompt) :].tolist() == plain(rule, prompt, most=6)


def test_a_service_of_several_formulas_takes_a_failed_step_again(zoo, models) -> None:
    """They share a lane; a step that fails in one of them is taken again with the same states."""
    from descant.models import make_spec
    from descant.runtime import Service

    recall_operator("tensor")
    failures: list[int] = []

    @descant.operator(state=lambda: [0])
    def fails(x, y, *, state):
        for row in state:
            row[0] += 1  # in place: what is kept is another
        if not failures and max(row[0] for row in state) == 6 and len(x) > 2:
            failures.append(len(x))
            raise MemoryError("a chance")
        return x + torch.tensor([[0.2 * (row[0] - 1)] for row in state]) * y, state

    def rising(text: list[int], start: int, state: Any) -> Any:
        x, y = (logprobs(model, text) for model in models)
        return x + 0.2 * (len(text) - start) * y, None

    names = "base", "arm"
    specs = {name: make_spec(name, zoo.path(name)) for name in names}
    service = Service(specs, slots=8, max_model_len=64)
    rules = {"recall(base, arm)": recall_rule("tensor", models), "fails(base, arm)": rising}
    more = {"max_new_tokens": MOST, "eos_token_id": [], "temperature": 0.0}
    requests = {}
    for formula in rules:
        decoder = service.decoder(formula, {})
        requests[formula] = [service.submit(decoder, prompt, **more)[0] for prompt in PROMPTS]
    ended: dict[int, Any] = {}
    while service.busy:
        ended |= {id(each.request): each for each in service.step() if each.finish_reason}
    assert failures and all(answer.error is None for answer in ended.values())
    for formula, rule in rules.items():
        found = [ended[id(request)].tokens for request in requests[formula]]
        assert found == [plain(rule, each) for each in PROMPTS], formula
        assert not any(request.states for request in requests[formula])


def test_states_are_dropped_with_their_rows(compiled, monkeypatch) -> None:
    from descant.runtime.loops.scheduler import Scheduler

    seen: list[int] = []
    original = Scheduler._no_more

    def noted(self: Any, request: Any) -> None:
        seen.append(sum(len(level) for level in request.states.values()))
        original(self, request)
        assert not request.states

    monkeypatch.setattr(Scheduler, "_no_more", noted)
    recall_operator("tensor")
    tokens(compiled("recall(base, arm)"), max_new_tokens=40)
    assert len(seen) == len(PROMPTS) and max(seen) <= 5


def test_a_mixture_by_component_keeps_the_states_of_the_others(compiled, models) -> None:
    recall_operator("tensor")
    decoder = compiled("mix(0.5: recall(base, arm), 0.5: arm)")
    asked = {"sample_components": True, "temperature": 1.0, "seed": [*range(4)]}
    together = tokens(decoder, **asked)
    for number, (prompt, found) in enumerate(zip(PROMPTS, together, strict=True)):
        assert tokens(decoder, [prompt], **asked | {"seed": number})[0] == found


# Ids, and where the answer begins.


def test_ids_are_those_of_the_row(compiled) -> None:
    seen: list[Any] = []

    @descant.operator
    def looks(x, y, *, ids, start):
        seen.append([(text.tolist(), first) for text, first in zip(ids, start, strict=True)])
        return x

    decoder = compiled("looks(base, arm)")
    seen.clear()
    found = tokens(decoder, max_new_tokens=4)
    for step, rows in enumerate(seen):
        texts = [[*prompt, *own[:step]] for prompt, own in zip(PROMPTS, found, strict=True)]
        pairs = [(text, len(prompt)) for text, prompt in zip(texts, PROMPTS, strict=True)]
        assert sorted(rows) == sorted(pairs)
    assert found == tokens(compiled("base"), max_new_tokens=4)
    seen.clear()
    decoder.loglikelihood(PROMPTS[1], [[7, 8]])
    assert sorted({(tuple(text), first) for rows in seen for text, first in rows}) == [
        ((1, 44), 2), ((1, 44, 7), 2),
    ]  # fmt: skip


def no_repeat(x: torch.Tensor, ids: Any, start: Any) -> torch.Tensor:
    """Excludes what the answer has already."""
    rows = []
    for row, text, first in zip(x, ids, start, strict=True):
        rows.append(row.index_fill(0, text[first:], -torch.inf))
    return torch.stack(rows)


@pytest.mark.parametrize("where", ["operator", "stage", "inside"])
@pytest.mark.parametrize("draft", [None, "base", "auto", "novel"])
def test_what_looks_at_the_answer(compiled, models, where, draft) -> None:
    @descant.operator
    def novel(x, *, ids, start):
        return no_repeat(x, ids, start)

    @descant.stage
    def unlike(scores, *, ids, start):
        return no_repeat(scores, ids, start)

    formula = {
        "operator": "novel(base) + arm",
        "stage": "base + arm | unlike()",
        "inside": "(base | unlike()) + arm",
    }[where]

    def rule(text: list[int], start: int, state: Any) -> Any:
        x, y = (logprobs(model, text) for model in models)
        return x.index_fill(0, torch.tensor(text[start:], dtype=torch.long), -torch.inf) + y, None

    decoder = compiled(formula)
    more = {} if draft is None else {"draft": draft, "draft_length": 3}
    if draft == "novel":
        more["draft"] = "novel(base)"
    for settings in ({}, SAMPLED):
        expected = [plain(rule, each, **settings) for each in PROMPTS]
        assert tokens(decoder, **settings, **more) == expected
    assert all(len(set(each)) == MOST for each in expected)


# Stages with a state.


@pytest.mark.parametrize("draft", [None, "arm", "arm | fading()", "auto"])
def test_a_stage_may_have_a_state(compiled, models, draft) -> None:
    @descant.stage(state=lambda: torch.zeros(V))
    def fading(scores, rate=0.5, *, state):
        scores += rate * state  # it has a copy
        return scores, (state + scores.clamp(min=-30)).roll(11, dims=-1) * 0.5

    def rule(text: list[int], start: int, state: Any) -> Any:
        scores = logprobs(models[0], text) + 0.25 * (0 if state is None else state)
        state = (0 if state is None else state) + scores.clamp(min=-30)
        return scores, state.roll(11, dims=-1) * 0.5

    decoder = compiled("base | fading(rate=a)", params={"a": 0.25}, draft=draft or "")
    more = {} if draft is None else {"draft": draft, "draft_length": 3}
    for settings in ({}, SAMPLED):
        expected = [plain(rule, each, **settings) for each in PROMPTS]
        assert tokens(decoder, **settings, **more) == expected
    with pytest.raises(descant.FormulaError, match="fading keeps a state"):
        compiled("(base | fading()) + arm")


# Any batch is each row alone.


@hypothesis(max_examples=12, deadline=None)
@drawn(
    prompts=st.lists(
        st.lists(st.integers(3, V - 1), min_size=1, max_size=9), min_size=1, max_size=6
    ),
    seed=st.integers(0, 2**31),
    values=st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.5]), min_size=6, max_size=6),
    most=st.integers(1, 7),
    size=st.integers(1, 4),
    formula=st.sampled_from(
        [
            "contrast(base, arm, strength=a)",
            "a*recall(base, arm) + contrast(arm, base, a)",
            "where(entropy(base) > 4, recall(base, arm), contrast(base, arm, a))",
            "recall(contrast(base, arm, a), a*arm + base) | top_k(30)",
        ]
    ),
)
def test_a_batch_is_each_row_alone(compiled, prompts, seed, values, most, size, formula) -> None:
    from descant.formula.words.operators import OPERATORS

    if "recall" not in OPERATORS:
        contrast_operator()
        recall_operator("tensor")
    decoder = compiled(formula, params={"a": 1.0})
    a, seeds = values[: len(prompts)], [seed + i for i in range(len(prompts))]
    more = {"temperature": 1.0, "max_new_tokens": most, "eos_token_id": [*range(0, V, 11)]}
    together = tokens(decoder, prompts, params={"a": a}, seed=seeds, batch_size=size, **more)
    for prompt, own, each, found in zip(prompts, a, seeds, together, strict=True):
        alone = tokens(decoder, [prompt], params={"a": own}, seed=each, **more)
        assert alone == [found]
    drafted = tokens(
        decoder, prompts, params={"a": a}, seed=seeds, draft="base", draft_length=3, **more
    )
    assert drafted == together
