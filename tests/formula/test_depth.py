"""What nests to the limit works from a caller that is deep itself, through every pass.

The nestings come from the grammar's rules and the words' fields, so that a new one joins by itself.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from nestings import Nesting, of_grammar, of_words, placed

import descant
from descant import FormulaError, lang
from descant.formula import Names, Plan, make_plan
from descant.formula.algebra.liveness import always, needed_terms
from descant.formula.algebra.shift_invariance import unnormalised
from descant.formula.printer import written
from descant.grammar import parse, text

FRAMES = 500  # of the caller, of Python's thousand
TOKENS = 11
MODELS = {
    "base": descant.TableModel.random(TOKENS, seed=1),
    "arm": descant.TableModel.random(TOKENS, seed=2),
    "rm": descant.RuleReward.random(TOKENS, seed=3),
}
NAMES = Names(frozenset(MODELS), frozenset("a"))
PARAMS = {"a": 1.0}
GRAMMAR = {nesting.name: nesting for nesting in of_grammar()}
WORDS = {nesting.name: nesting for nesting in of_words()}
REFUSED = {  # what is said of those that the grammar takes and that mean nothing
    "best_of": "searches over whole texts",
    "blockwise": "searches over whole texts",
    "reject": "searches over whole texts",
    "rerank(ahead)": "judges whole texts",
    "particles": "searches over whole texts",
    "align": "takes one model",
    "head": "takes a declared head last",
    **dict.fromkeys(
        ("rerank(reward) 0", "best_of(r) 0", "blockwise(r) 0", "reject(r) 0", "particles(r) 0"),
        "is a stage, and inside",
    ),
    "rerank(label) 0": "rm has 1 output and no classes",
}


def deep(action: Callable[[], Any]) -> Any:
    """Call an action from ``FRAMES`` frames below the bottom of the stack."""
    frame: FrameType | None = sys._getframe()
    frames = 0
    while frame:
        frame, frames = frame.f_back, frames + 1

    def below(more: int) -> Any:
        return action() if more <= 0 else below(more - 1)

    return below(FRAMES - frames)


def read(formula: str) -> None:
    """Every pass over the tree."""
    tree = parse(formula)
    again = parse(formula)
    assert tree == again and hash(tree) == hash(again) and repr(tree) == repr(again)
    for copied in (pickle.loads(pickle.dumps(tree)), copy.copy(tree), copy.deepcopy(tree)):
        assert copied == tree and copied.span == tree.span
    expression = lang.Expression(tree)
    assert str(expression) == text(tree) and expression == formula


def planned(formula: str) -> Plan:
    """Every pass over the plan."""
    plan, again = make_plan(formula, NAMES), make_plan(parse(formula), NAMES)
    assert plan == again and hash(plan.scores) == hash(again.scores)
    assert repr(plan.scores) == repr(again.scores) and str(plan)
    for copied in (pickle.loads(pickle.dumps(plan)), copy.copy(plan), copy.deepcopy(plan)):
        assert copied == plan and copied.spans == plan.spans
    values = plan.values(PARAMS)
    assert len(values) == len([str(scalar) for scalar in plan.scalars])
    assert unnormalised(plan) <= set(plan.reads)
    assert plan.scores in always(plan.scores)
    assert needed_terms(plan, values) <= set(plan.terms)
    assert written(plan.scores)
    return plan


def decoded(formula: str) -> None:
    """Bound to tables, printed, and a token decoded and explained."""
    decoder = descant.compile(formula, MODELS, params=PARAMS)
    assert "base" in str(decoder.plan)
    [completion] = decoder.generate([[1, 2]], max_new_tokens=1, progress=False)
    assert len(completion.token_ids) == 1
    if decoder.plan.search is None:
        assert decoder.scores([1, 2], [3]).shape == (2, TOKENS)
        assert repr(decoder.inspect([1, 2], max_new_tokens=1))


@pytest.mark.parametrize("nesting", GRAMMAR.values(), ids=GRAMMAR)
def test_what_nests_in_the_grammar(nesting: Nesting) -> None:
    most = nesting.deepest()
    deep(lambda: read(nesting.times(most)))
    is_decoded = False
    for each in placed(nesting):
        formula = each.times(each.deepest(most, most - 3))
        with suppress(FormulaError):  # where it means nothing it is refused in words
            deep(lambda formula=formula: planned(formula))
            if not is_decoded:
                deep(lambda formula=formula: decoded(formula))
                is_decoded = True


@pytest.mark.parametrize("nesting", WORDS.values(), ids=WORDS)
def test_what_words_nest(nesting: Nesting) -> None:
    formula = nesting.times(nesting.deepest())
    deep(lambda: read(formula))
    try:
        deep(lambda: planned(formula))
        deep(lambda: decoded(formula))
    except FormulaError as error:
        names = [name for name in REFUSED if nesting.name.startswith(name)]
        said = REFUSED[max(names, key=len)] if names else "finite"
        assert said in error.problem


def test_the_constructs_that_were_once_too_deep_are_among_them() -> None:
    formulas = " ".join(nesting.times(2) for nesting in [*GRAMMAR.values(), *WORDS.values()])
    for construct in ("mix(1: mix(1: base", "pmean(p=1, 1: pmean(", "abs(1 + abs(1 +", "not not"):
        assert construct in formulas.replace("  ", " ")
    assert "(base | top_k(k=1)) | top_k" in formulas


def test_the_caller_is_deep() -> None:
    """What calls itself once per level runs out of stack where the passes above do not."""

    def plain(levels: int) -> int:
        return levels and plain(levels - 1)

    assert deep(lambda: len(inspect.stack(0))) >= FRAMES
    assert deep(lambda: plain(FRAMES - 100)) == 0
    with pytest.raises(RecursionError):
        deep(lambda: plain(sys.getrecursionlimit() - FRAMES))
