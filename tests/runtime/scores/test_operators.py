"""What operators ask of a device: no waiting, no loop over rows, and no write to what is given."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import descant
from descant.runtime.scores.operators import evaluate
from descant.runtime.scores.stages import chain

V = 30
MODELS = {name: descant.TableModel.random(V, seed=i) for i, name in enumerate(("base", "arm"))}
MODELS |= {"rm": descant.RuleReward.random(V, seed=5)}
FORMULAS = [
    "1.5*base - a*arm + 1", "max(base, arm)", "min(base, arm)", "mix(0.5: base, a: arm)",
    "pmean(a; 0.5: base, a: arm)", "pmean(-1; 1: base, 2: arm)", "mean(base + arm)",
    "temp(base, 0.7)", "plausible(base, 0.1)", "debias(base, arm, 10)", "base | top_k(5)",
    "base | top_p(0.9)", "base | min_p(0.05)", "base | temperature(0.7)",
    "base | repetition_penalty(1.2)", "(base | rerank(rm, k=4, w=0, keep=all)) + arm",
    "base | rerank(rm, k=4, w=0)",
]  # fmt: skip


class Calls(TorchDispatchMode):
    """Counts what is asked of the device."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


def step(formula: str, rows: int, device: str) -> tuple[torch.Tensor, dict, int]:
    """A formula's scores over given ones on a device, the given ones, and how many calls."""
    decoder = descant.compile(formula, MODELS, params={"a": 0.5})
    values = {"a": [0.25 * i for i in range(rows)]}
    requests = decoder.session.builder.requests([[i] for i in range(rows)], params=values)
    batch = decoder.session.engine.begin(requests, rows)
    batch.admit(requests)
    batch.read()
    context = decoder.session.engine.step.context(batch)
    numbers = context.columns.reads.items()
    said = {read: context.reads[n](context).log_softmax(-1) for read, n in numbers}
    given = {read: scores.to(device) for read, scores in said.items()}
    context.reads = [lambda _, scores=scores: scores for scores in given.values()]
    context.values, context.steps = context.values.to(device), context.steps.to(device)
    context.numbers = [n._replace(values=n.values.to(device)) for n in context.numbers]
    context.tables = {table: rows.to(device) for table, rows in context.tables.items()}
    plan = decoder.session.bound.plan
    with Calls() as calls:
        out = chain(evaluate(plan.scores, context), context, None, plan.stages)
    return out, {read: (scores, said[read]) for read, scores in given.items()}, calls.count


@pytest.mark.parametrize("formula", FORMULAS)
def test_nothing_waits_for_the_device(formula) -> None:
    """A meta tensor has no values: whatever asks for one fails."""
    out, _, _ = step(formula, 3, "meta")
    assert out.shape == (3, V) and out.device.type == "meta"


def test_what_waits_is_found() -> None:
    with pytest.raises(Exception, match="meta"):
        step("where(entropy(base) > 1, base, arm)", 3, "meta")


@pytest.mark.parametrize("formula", FORMULAS)
def test_nothing_loops_over_rows(formula) -> None:
    few, many = (step(formula, rows, "cpu")[2] for rows in (3, 7))
    assert few == many


@pytest.mark.parametrize("formula", FORMULAS)
def test_scores_that_are_given_stay_as_they_are(formula) -> None:
    _, given, _ = step(formula, 3, "cpu")
    for scores, before in given.values():
        assert torch.equal(scores, before)
