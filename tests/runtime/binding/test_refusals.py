"""What cannot work is refused with the place, the problem and the cure, as early as can be."""

from __future__ import annotations

import math

import pytest
import torch
from checkpoints import EOS, fresh, tokenizer

import descant
from descant import FormulaError, ModelError

PROMPT = "the river"


def marked(call, carets: str, problem: str) -> FormulaError:
    """The call raises a FormulaError with this problem, and its place is where the carets are."""
    with pytest.raises(FormulaError) as caught:
        call()
    found = caught.value
    assert " " * found.span.start + "^" * (found.span.end - found.span.start) == carets
    assert problem in found.problem
    return found


def test_marked_can_fail(compiled) -> None:
    call = lambda: compiled("base | rerank(arm)")  # noqa: E731
    for carets, problem in (("^", "language model"), ("              ^^^", "another problem")):
        with pytest.raises(AssertionError):
            marked(call, carets, problem)
    with pytest.raises(pytest.fail.Exception):
        marked(lambda: compiled("base"), "", "")


@pytest.mark.parametrize(
    ("formula", "problem"),
    [
        ("", "the formula is empty"),
        ("base + (arm", "this parenthesis is never closed"),
        ("base) + arm", "this parenthesis closes nothing"),
        ("base + a*arm", "a is not declared"),
        ("base + nobody", "nobody is not declared"),
        ("base*arm", "not multiply two models"),
        ("base | rrank(rm)", "there is no stage rrank"),
        ("base | top_k(0)", "k of top_k must be at least 1"),
        ("base + 2**10**10*arm", "too large"),
        ("base" + " + base" * 2000, "at most 4096 characters"),
        ("(" * 1000 + "base" + ")" * 1000, "at most 100 parentheses"),
    ],
)
def test_a_formula_is_refused_before_a_checkpoint_is_looked_at(formula, problem) -> None:
    models = dict.fromkeys(("base", "arm", "rm"), "/no/such/folder")
    with pytest.raises(FormulaError) as caught:
        descant.compile(formula, models=models)
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("formula", "carets", "problem"),
    [
        ("base + rm", "       ^^", "rm is a reward model, and a term is a language model"),
        ("base | rerank(arm)", "              ^^^", "arm is a language model, and rerank takes"),
        ("base | rerank(base)", "              ^^^^", "base is a language model, and rerank"),
        ("base | rerank(2*rm + arm)", "                     ^^^", "arm is a language model"),
        ("rm | rerank(rm)", "^^", "rm is a reward model"),
        ("base | top_k(301)", "             ^^^", "k of top_k is 301, and the vocabulary has 300"),
        ("base | rerank(rm, k=301)", "                    ^^^", "k of rerank is 301"),
        ("base + other", "       ^^^^^", "another vocabulary"),
        ("max(base, arm) + other", "                 ^^^^^", "another vocabulary"),
    ],
)
def test_what_only_a_checkpoint_can_tell(compiled, formula, carets, problem) -> None:
    marked(lambda: compiled(formula), carets, problem)


def test_different_vocabularies_are_named(compiled) -> None:
    with pytest.raises(FormulaError) as caught:
        compiled("base + other")
    said = str(caught.value)
    for part in ("other", "base", "310", "300", "10 of them different"):
        assert part in said
    new = tokenizer(310).convert_ids_to_tokens([300, 301, 302])
    assert all(repr(token) in said for token in new)
    assert repr(tokenizer(310).convert_ids_to_tokens(303)) not in said


def test_sizes_are_compared_where_there_is_no_tokenizer() -> None:
    models = {name: descant.TableModel.random(size, seed=1) for name, size in (("a", 8), ("b", 9))}
    with pytest.raises(FormulaError, match="b has 9 tokens and a has 8"):
        descant.compile("a + b", models=models)


def test_rows_beyond_the_tokenizer_are_cut_and_said_so(zoo, compiled) -> None:
    decoder = compiled("base + 0.5*padded")
    assert any("padded: 32 rows of 332 are cut" in note for note in decoder.plan.notes)
    assert decoder.scores(PROMPT, []).shape == (1, 300)
    alone = compiled("padded")
    found = alone.generate([PROMPT, "a"], max_new_tokens=20, temperature=1.5, seed=1)
    assert all(token < 300 for one in found for token in one.token_ids)
    from reference_rules import plain

    text = tokenizer()(PROMPT)["input_ids"]
    expected = torch.log_softmax(plain.logits(zoo.model("padded"), text)[:300], -1)
    torch.testing.assert_close(alone.scores(PROMPT, [])[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("formula", "params", "carets", "problem"),
    [
        ("base + a*arm", {"a": float("nan")}, "       ^", "a is nan; a parameter is a finite"),
        ("base + a*arm", {"a": float("inf")}, "       ^", "a is inf; a parameter is a finite"),
        ("base + arm/a", {"a": 0}, "       ^^^", "the coefficient of arm is not a finite number"),
        ("base + exp(a)*arm", {"a": 1e6}, "              ^^^", "not a finite number at a=1000000"),
        ("a*base + a*arm", {"a": 0}, "^^^^^^^^^^^^^^", "every coefficient is 0"),
        ("base | top_k(a)", {"a": 0}, "             ^", "k of top_k must be at least 1, not 0"),
        ("base | top_k(a)", {"a": 2.5}, "             ^", "must be a whole number"),
        ("base | top_k(a)", {"a": 301}, "             ^", "and the vocabulary has 300 tokens"),
        ("base | top_p(a)", {"a": 1.5}, "             ^", "must be at most 1"),
        ("base | temperature(a)", {"a": 0}, "                   ^", "must be above 0"),
        ("base | rerank(rm, clamp=(a, 1))", {"a": 2}, " " * 25 + "^^^^", "goes from 2 up to 1"),
        ("mix(a: base, 0: arm)", {"a": 0}, "    ^^^^^^^^^^", "every weight of mix is 0"),
        ("base + pmean(-1; a: base, a: arm)", {"a": 0}, " " * 17 + "^" * 10, "every weight of"),
        ("base | rerank(rm, w=a)", {"a": float("nan")}, "                    ^", "a is nan"),
    ],
)
def test_values_of_a_request(compiled, formula, params, carets, problem) -> None:
    decoder = compiled(formula, params={"a": 1})
    marked(lambda: decoder.generate(PROMPT, params=params), carets, problem)
    marked(lambda: decoder.scores(PROMPT, [], params=params), carets, problem)
    marked(lambda: compiled(formula, params=params).generate(PROMPT), carets, problem)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"params": {"b": 1}}, "the formula has no parameter b; known here: a"),
        ({"params": {"a": [1, 2, 3]}}, "a has 3 values and there are 2 prompts"),
        ({"seed": [1]}, "seed has 1 values and there are 2 rows"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"stop_strings": ""}, "an empty stop string"),
    ],
)
def test_arguments_that_do_not_fit(compiled, settings, problem) -> None:
    with pytest.raises(ValueError) as caught:
        compiled("base + a*arm", params={"a": 1}).generate([PROMPT, "a"], **settings)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ({"min_new_tokens": 5}, "no argument min_new_tokens; it is called min_tokens here"),
        ({"max_tokens": 5}, "no argument max_tokens; it is called max_new_tokens here"),
    ],
)
def test_unknown_arguments(compiled, argument, problem) -> None:
    decoder = compiled("base")
    with pytest.raises(TypeError, match=problem):
        decoder.generate(PROMPT, **argument)
    with pytest.raises(TypeError, match=problem):
        decoder.stream(PROMPT, **argument)


@pytest.mark.parametrize("prompt", ["", [[]], [""], [[{"role": "user", "content": "a"}], ""]])
def test_an_empty_prompt(compiled, prompt) -> None:
    with pytest.raises(ModelError, match="the prompt is empty"):
        compiled("base").generate(prompt)


@pytest.mark.parametrize("ids", [[1, 300], [-1, 5]])
def test_ids_outside_the_vocabulary(compiled, ids) -> None:
    decoder = compiled("base")
    with pytest.raises(ValueError, match="the vocabulary has 300 tokens"):
        decoder.generate(ids)
    with pytest.raises(ValueError, match="the completion has the token id"):
        decoder.scores([1], ids)


@pytest.mark.parametrize(
    ("formula", "room"), [("short", 24), ("base + short", 24), ("base + gpt2", 64), ("opt", 64)]
)
def test_a_prompt_longer_than_the_models_read(compiled, formula, room) -> None:
    decoder = compiled(formula)
    for length in (room, room + 5):
        with pytest.raises(
            ModelError, match=f"{length} tokens, and the models read at most {room}"
        ):
            decoder.generate([50] * length)
    with pytest.raises(ModelError, match=f"the models read at most {room}"):
        decoder.scores([50] * (room - 3), [50] * 4)
    [found] = decoder.generate([50] * (room - 3), max_new_tokens=20, eos_token_id=[])
    assert (len(found.token_ids), found.finish_reason) == (3, "length")
    assert decoder.scores([50] * (room - 3), [50] * 3).isfinite().all()


def test_a_reward_model_has_positions_too(zoo, compiled) -> None:
    from checkpoints import reward

    small = {"model": reward(max_position_embeddings=16), "tokenizer": tokenizer()}
    decoder = compiled("base | rerank(small, k=3)", models={"small": small})
    with pytest.raises(ModelError, match="read at most 16"):
        decoder.generate([50] * 16)
    assert len(decoder.generate([50] * 14, max_new_tokens=9, eos_token_id=[])[0].token_ids) == 2


@pytest.mark.parametrize(
    ("formula", "carets"),
    [
        ("base + 0.5*broken", "           ^^^^^^"),
        ("broken - base", "^^^^^^"),
    ],
)
def test_nan_names_its_term(compiled, formula, carets) -> None:
    decoder = compiled(formula)
    error = marked(
        lambda: decoder.generate([PROMPT, "a"]), carets, "broken gave NaN for row 0, token 0"
    )
    assert "dtype" in error.cure
    marked(lambda: decoder.scores(PROMPT, [5]), carets, "broken gave NaN for row 0, token 0")


def test_nan_of_one_adapter_names_it_alone(zoo, compiled, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(zoo.path("lora4"), folder)
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors")
    for formula, carets in (
        ("base + bad + lora8", "       ^^^"),
        ("bad + lora8 + base", "^^^"),
        ("lora8 + base + bad", "               ^^^"),
    ):
        decoder = compiled(formula, models={"bad": {"adapter": str(folder), "on": "base"}})
        marked(lambda: decoder.generate([PROMPT, "a"]), carets, "bad gave NaN for row 0")  # noqa: B023


def test_nan_of_one_row_names_that_row() -> None:
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    logits[:, 3] = 9.0
    logits[5] = float("nan")
    models = {"base": descant.TableModel.random(8, seed=1), "arm": descant.TableModel(logits)}
    decoder = descant.compile("base + a*arm", models=models, params={"a": 1})
    call = lambda: decoder.generate([[1], [2], [5]], params={"a": [0, 1, 1]})  # noqa: E731
    marked(call, "         ^^^", "arm gave NaN for row 2, token 0")
    assert len(decoder.generate([[1], [2], [5]], params={"a": 0}, max_new_tokens=4)) == 3


@pytest.mark.parametrize(
    "wrong", [{3: math.nan}, {3: math.inf}, dict.fromkeys(range(8), -math.inf)]
)
@pytest.mark.parametrize(
    ("formula", "carets"),
    [("base - arm", "       ^^^"), ("max(base, arm)", "          ^^^"), ("arm", "^^^")],
)
def test_one_wrong_logit_is_found_with_and_without_log_softmax(formula, carets, wrong) -> None:
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    for token, value in wrong.items():
        table[5, token] = value
    models = {"base": descant.TableModel.random(8, seed=1), "arm": descant.TableModel(table)}
    decoder = descant.compile(formula, {name: models[name] for name in models if name in formula})
    for temperature in (0.0, 1.0):
        marked(
            lambda temperature=temperature: decoder.generate([[2], [5]], temperature=temperature),
            carets, "arm gave NaN for row 1, token 0",
        )  # fmt: skip
    marked(lambda: decoder.scores([5], []), carets, "arm gave NaN for row 0, token 0")


def test_nan_of_a_reward_names_it(zoo, compiled) -> None:
    model = fresh(zoo.path("rm"))
    model.score.weight.data[0, 0] = float("nan")
    spec = {"model": model, "tokenizer": tokenizer()}
    decoder = compiled("base | rerank(bad, k=3, w=w)", models={"bad": spec}, params={"w": 1})
    marked(lambda: decoder.generate(PROMPT), "              ^^^", "bad gave NaN")
    assert decoder.generate(PROMPT, params={"w": 0}, max_new_tokens=2)


def test_every_token_excluded() -> None:
    low, high = (torch.zeros(6, 6) for _ in range(2))
    low[:, :3], high[:, 3:] = -torch.inf, -torch.inf
    models = {"a": descant.TableModel(low), "b": descant.TableModel(high)}
    decoder = descant.compile("a + b", models=models)
    marked(lambda: decoder.generate([1]), "^^^^^", "every token is excluded for row 0, token 0")


def test_a_template_that_cannot_take_these_messages(zoo, compiled) -> None:
    spec = {"path": zoo.path("base"), "template": "Q: {prompt} A:"}
    decoder = compiled("base", models={"base": spec})
    with pytest.raises(ModelError, match=r"takes one user message, .*not user, assistant, user"):
        decoder.generate(
            [{"role": role, "content": "hm"} for role in ("user", "assistant", "user")]
        )


def test_ids_cannot_have_another_system_prompt(compiled) -> None:
    with pytest.raises(ModelError, match="token ids are read as they are"):
        compiled('base@"be kind"').generate([1, EOS])


def test_text_needs_a_tokenizer(zoo) -> None:
    decoder = descant.compile("base", models={"base": fresh(zoo.path("base"))})
    with pytest.raises(ModelError, match="base has no tokenizer"):
        decoder.generate("text")
    with pytest.raises(ValueError, match="stop_strings need a tokenizer"):
        decoder.generate([1], stop_strings="a")


@pytest.mark.parametrize("formula", ["a + b", "b + a"])
def test_a_table_of_another_size_than_the_tokenizer(formula) -> None:
    models = {
        "a": descant.TableModel.random(8, seed=1),
        "b": {"model": descant.TableModel.random(300, seed=2), "tokenizer": tokenizer()},
    }
    with pytest.raises(descant.FormulaError, match="a has 8 tokens and b has 300"):
        descant.compile(formula, models=models)


def test_a_table_is_cut_to_its_tokenizer() -> None:
    table = descant.TableModel.random(310, seed=2)
    decoder = descant.compile("a", models={"a": {"model": table, "tokenizer": tokenizer()}})
    expected = torch.log_softmax(table.table[3, :300], -1)
    torch.testing.assert_close(decoder.scores([3], [])[0], expected)
