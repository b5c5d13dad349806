"""Of every formula: what was added to a score adds up to it, and each term said just that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from random_formulas import formulas, linear
from test_laws import LANES, NAMES, TABLES, UNDEFINED, compiled, params, texts

from descant import FormulaError
from descant.formula import make_plan
from descant.formula.nodes import Staged
from descant.formula.printer import written
from descant.grammar import parse, text

law = settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def adds_up(candidate) -> bool:
    """Whether what was added to a candidate is its score, to float32's rounding."""
    added = [one for one in candidate.contributions if one is not None]
    scale = max(1.0, sum(map(abs, added)))
    return candidate.score is not None and abs(sum(added) - candidate.score) < 1e-5 * scale


def plainly(name: str, read: list[int]) -> torch.Tensor:
    """A table's log-probabilities after a text, in double precision."""
    return torch.log_softmax(torch.tensor(TABLES[name][read[-1]], dtype=torch.double), 0)


@law
@given(linear | formulas, texts, params, st.sampled_from([0.0, 1.0]), st.integers(1, 11))
@example(parse("base - 2*top_p(arm, 0.5) | top_k(3)"), [1], {"a": 1, "b": 1}, 1.0, 4)
@example(parse("base + 3 + a*mix(0.5: base, 0.5: arm) | min_p(0.1) | temperature(2)"), [1],
         {"a": 0.5, "b": 1}, 0.0, 11)  # fmt: skip
@example(parse("2*(base | rerank(rm, k=3)) + arm | rerank(rm2 - rm, k=4, norm=center, keep=all)"),
         [1, 2], {"a": 0.5, "b": 1}, 1.0, 11)  # fmt: skip
@example(parse("base + a*entropy(base)*arm - step | temperature(0.5 + js(base, arm2))"), [1],
         {"a": 0.5, "b": 1}, 1.0, 4)  # fmt: skip
@example(parse("base | repetition_penalty(1.5) | top_p(0.5)"), [1, 2], {"a": 1, "b": 1}, 1.0, 5)
def test_what_was_added_is_the_score(tree, prompt, given_params, temperature, n) -> None:
    decoder = compiled(tree)
    arguments = {"max_new_tokens": 3, "temperature": temperature, "seed": 5}
    try:
        found = decoder.inspect(prompt, params=given_params, n=n, **arguments)
    except FormulaError as error:
        assume(not any(said in error.problem for said in UNDEFINED))
        assert "every token is excluded" in error.problem, error
        return
    [alone] = decoder.generate(prompt, params=given_params, **arguments)
    ids = found.completion.token_ids
    assert ids == alone.token_ids
    rows = decoder.scores(prompt, ids, params=given_params)
    for step, (choice, row) in enumerate(zip(found.tokens, rows, strict=False)):
        ranked = row.sort(descending=True, stable=True).indices.tolist()
        assert (choice.step, choice.id, choice.best) == (step, ids[step], ranked[0])
        assert len(choice.candidates) >= min(n, int(row.isfinite().sum()))
        assert {choice.id, choice.best, choice.base} <= {one.id for one in choice.candidates}
        chances = row.double().softmax(0)
        for one in choice.candidates:
            if one.score is None:
                assert row[one.id] == -torch.inf
                assert one.removed_by in {part.name for part in found.parts}
                assert (one.rank, one.probability) == (None, 0)
                continue
            assert adds_up(one), (one, found.parts)
            assert one.score == row[one.id].item() and one.removed_by is None
            assert ranked[one.rank - 1] == one.id
            assert one.probability == pytest.approx(chances[one.id].item(), abs=1e-5)
        terms_say_what_their_tables_say(found, choice, [*prompt, *ids[:step]])


def terms_say_what_their_tables_say(found, choice, read: list[int]) -> None:
    for one in choice.candidates:
        for name, said in zip(found.terms, one.logprobs, strict=True):
            if said is not None:
                assert said == pytest.approx(plainly(name, read)[one.id].item(), abs=1e-4)
        parts = zip(found.parts, one.contributions, choice.numbers, strict=True)
        for part, added, numbers in parts:
            if part.kind == "term" and added is not None:
                [factor] = numbers.values() if part.coefficient is None else [part.coefficient]
                said = factor * plainly(part.name.rpartition("*")[2], read)[one.id].item()
                assert added == pytest.approx(said, abs=1e-4, rel=1e-5)
        for reward, said in zip(found.rewards, one.rewards, strict=True):
            if said is not None:
                text = torch.tensor([*read, one.id])
                assert said == pytest.approx(LANES[reward.name].table[text[-2], text[-1]].item())


def test_adding_up_can_fail() -> None:
    decoder = compiled(parse("base + arm"))
    one = decoder.inspect([1], max_new_tokens=1).tokens[0].candidates[0]
    assert adds_up(one)
    first, second = one.contributions
    assert not adds_up(replace(one, contributions=(first, second + 1e-3)))
    assert not adds_up(replace(one, contributions=(first, None)))


@law
@given(linear | formulas)
def test_what_is_written_of_a_plan_is_a_formula_with_that_plan(tree) -> None:
    try:
        plan = make_plan(text(tree), NAMES)
    except FormulaError:
        assume(False)
    [(_, first), *more] = plan.scores.parts
    assume(more or plan.scores.shift is not None or not isinstance(first, Staged))
    said = " | ".join(map(written, (plan.scores, *plan.stages)))
    assert make_plan(said, NAMES) == plan
