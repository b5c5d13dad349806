"""Where one component does not stand for the mixture, a call for it says so, and what to write."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoints import renumbered, tokenizer, turned

import descant

TABLES = {name: descant.TableModel.random(12, seed=seed) for seed, name in enumerate("abc")}
MODELS = {**TABLES, "r": descant.RuleReward.random(12, seed=3)}

WRONG = {
    "a + b": """
sample_components=True draws one component of a mix, and this is no single mix
  a + b
  ^^^^^
write mix(0.5: a, 0.5: b), or leave sample_components out""",
    "2*mix(0.5: a, 0.5: b)": """
sample_components=True draws one component of a mix, and this is no single mix
  2*mix(0.5: a, 0.5: b)
  ^^^^^^^^^^^^^^^^^^^^^
write mix(0.5: a, 0.5: b), or leave sample_components out""",
    "mix(0.5: a, 0.5: b) | top_k(3) | best_of(r, n=2)": """
sample_components=True is for a mix with nothing after it, and here is top_k, best_of
  mix(0.5: a, 0.5: b) | top_k(3) | best_of(r, n=2)
  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
write stages into the components, mix(0.5: (a | top_k(50)), …), or leave sample_components out""",
    "mix(0.5: (a | rerank(r, k=2)), 0.5: b)": """
sample_components=True runs one component, and reward models judge in each step
  mix(0.5: (a | rerank(r, k=2)), 0.5: b)
  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
leave rerank out, or leave sample_components out""",
}


@pytest.mark.parametrize("formula", WRONG)
def test_formulas_of_which_no_component_can_be_drawn(formula) -> None:
    decoder = descant.compile(formula, MODELS)
    assert "components" not in str(decoder.plan)
    with pytest.raises(descant.FormulaError) as error:
        decoder.generate([1], sample_components=True)
    assert str(error.value) == WRONG[formula].strip("\n")


@pytest.mark.parametrize("formula", ["a + 0*b + mix(0.5: a, 0.5: b)", "mix(0.5: a, 0.5: b) + 1"])
def test_sums_are_no_mixtures(formula) -> None:
    with pytest.raises(descant.FormulaError, match="this is no single mix"):
        descant.compile(formula, MODELS).generate([1], sample_components=True)


def test_a_model_of_another_vocabulary_is_no_component(zoo) -> None:
    far = {"model": zoo.model("arm"), "tokenizer": renumbered(turned())}
    near = {"model": zoo.model("base"), "tokenizer": tokenizer()}
    decoder = descant.compile("mix(0.5: near, 0.5: align(far))", {"near": near, "far": far})
    assert "components" not in str(decoder.plan)
    with pytest.raises(descant.FormulaError) as error:
        decoder.generate("x", sample_components=True)
    assert str(error.value) == (
        "sample_components=True takes no align(far): how much of its probability goes to the "
        "formula's tokens is known after its forward alone\n"
        "  mix(0.5: near, 0.5: align(far))\n"
        "                      ^^^^^^^^^^\n"
        "mix models of one vocabulary, or leave sample_components out"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.5}, "at temperature 1, and not at 0.5; leave temperature out, or leave"),
        ({"temperature": 0}, "at temperature 1, and not at 0; leave"),
        ({"temperature": [1, 0.7]}, "at temperature 1, and not at 0.7; leave"),
        ({"do_sample": False}, "at temperature 1, and not at 0; leave"),
        ({"logprobs": True}, "logprobs are of the whole mixture, .*; leave sample_components out"),
    ],
)
def test_arguments_that_do_not_go_with_it(arguments, message) -> None:
    decoder = descant.compile("mix(0.5: a, 0.5: b)", MODELS)
    with pytest.raises(ValueError, match=message):
        decoder.generate([[1], [2]], sample_components=True, **arguments)


def test_inspect_and_processors_are_of_the_mixture(zoo) -> None:
    models = {
        name: {"model": zoo.model(name), "tokenizer": tokenizer()} for name in ("base", "arm")
    }
    decoder = descant.compile("mix(0.5: base, 0.5: arm)", models)
    with pytest.raises(ValueError, match=r"why the whole mixture .*; leave sample_comp"):
        decoder.inspect("x", sample_components=True)
    base: Any = zoo.model("base")
    ids = tokenizer()("the river", return_tensors="pt")["input_ids"]
    asked = {"custom_generate": decoder, "max_new_tokens": 2, "do_sample": True}
    with pytest.raises(ValueError, match=r"scores of one component, .*; call decoder.generate"):
        base.generate(input_ids=ids, **asked, sample_components=True)
    same = base.generate(input_ids=ids, **asked, sample_components=False)
    assert same.shape[1] == ids.shape[1] + 2


def test_the_plan_says_what_it_costs() -> None:
    def line(decoder: Any, runs: float, batch_size: int = 1) -> bool:
        size = runs * TABLES["a"].footprint().weight_bytes
        many = f"{runs:.3g} forward{'s' * (runs != 1)}, {size:.3g} B of weights"
        says = "components  with sample_components=True each row and step runs one of them:"
        return f"{says} on average {many}, and what it missed\n" in decoder.plan.text(
            1e9, batch_size
        )

    decoder = descant.compile("mix(w: a, 1-w: b)", MODELS, params={"w": 0.25})
    assert line(decoder, 1)
    assert line(decoder, (1 - 0.75**4) + (1 - 0.25**4), 4)  # a lane runs where any row drew it
    assert line(descant.compile("mix(0.5: a, 0.5: a@none)", MODELS), 1)  # they share a lane
