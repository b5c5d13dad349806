"""Two vocabularies: what a model of another one says, token by token of the formula's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import BOS, EOS, fresh, moved, renumbered, tokenizer, turned
from reference_rules import plain

import descant
from descant import FormulaError
from descant.models.text.token_map import Vocabulary, token_map

PROMPTS = ["the river", "a", "def add(one, two): return", "stone é", "the lazy dog; the dog"]
MIX = "mix(0.5: base, 0.5: {x})"
FORMULAS = [
    "base + 0.5*{x}",
    "base - a*{x}",
    MIX,
    "base + a*{x@none}",
    'base + {x@"be kind"} - a*{x} | repetition_penalty(1.3) | top_k(20)',
    "where(step < 2, mix(0.3: base, 0.7: {x}), base)",
    "where(max_prob({x}) < 0.3, base, base + a*{x})",
    "mix(0.5: base, 0.5: where(entropy({x}) < 3, {x}, arm2))",
    "pmean(-1; 0.5: base, 0.5: a*{x})",
    "max(base, {x}) | rerank(rm, k=4, w=1)",
    "base | best_of({x} - base, n=3)",
    "base + a*{x} | blockwise({x} - base, beams=2, samples=2, length=3)",
    "base + a*{x} | reject({x} - base, target=2, entropy=3.5, beta=0.3, retries=3, samples=2)",
]
SCORED = FORMULAS[:-3]  # a search gives texts, and no scores of a token
VALUES = [0.5, 0.0, 1.5, -0.5, 0.0]


def spec(model: Any, ids: dict[str, int] | None = None, **roles: str) -> dict[str, Any]:
    """A model in memory with its tokens at other ids."""
    ids = tokenizer().get_vocab() if ids is None else ids
    return {"model": moved(model, ids), "tokenizer": renumbered(ids, **roles)}


def first(count: int) -> dict[str, int]:
    """The tokens with the lowest ids."""
    return {token: i for token, i in tokenizer().get_vocab().items() if i < count}


def written(formula: str, x: str, aligned: bool) -> str:
    """A formula with a model in its place: as it is, or aligned."""
    import re

    said = lambda found: f"align({x}{found[1]})" if aligned else f"{x}{found[1]}"  # noqa: E731
    return re.sub(r"\{x(@[^}]+)?\}", lambda found: said([None, found[1] or ""]), formula)


@pytest.fixture(scope="module")
def both(zoo, compiled) -> Callable[[str], tuple[Any, Any]]:
    """A formula over a model, and over the same model with its tokens in another order."""
    models = {"other": spec(zoo.model("arm"), turned()), "base": zoo.path("base")}

    def make(formula: str) -> tuple[Any, Any]:
        params = {"a": 0.5} if "a*" in formula else None
        plainly = compiled(written(formula, "arm", False), params=params)
        return plainly, compiled(written(formula, "other", True), models=models, params=params)

    return make


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("formula", FORMULAS)
def test_the_order_of_a_vocabulary_means_nothing(both, formula, temperature) -> None:
    plainly, aligned = both(formula)
    params = {"a": VALUES} if "a*" in formula else {}
    settings = {"max_new_tokens": 10, "temperature": temperature, "seed": 3, "params": params}
    expected = plainly.generate(PROMPTS, **settings)
    found = aligned.generate(PROMPTS, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.text for one in found] == [one.text for one in expected]
    for i, (prompt, one) in enumerate(zip(PROMPTS, found, strict=True)):
        each = {name: values[i] for name, values in params.items()}
        [alone] = aligned.generate(prompt, **{**settings, "params": each})
        assert alone.token_ids == one.token_ids


@pytest.mark.pages
@pytest.mark.parametrize("formula", SCORED)
def test_scores_along_a_text_are_the_same(both, formula) -> None:
    plainly, aligned = both(formula)
    made = [9, 200, 33, EOS, BOS, 77]
    for prompt in (*PROMPTS[:2], [BOS, 40, 41]):
        if isinstance(prompt, list) and "@" in formula.replace("@none", ""):
            continue
        expected, found = (one.scores(prompt, made) for one in (plainly, aligned))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_on_a_model_of_another_vocabulary(zoo, compiled) -> None:
    lora = {"adapter": zoo.path("lora4"), "on": "other"}
    models = {"other": spec(fresh(zoo.path("base")), turned()), "lora": lora}
    aligned = compiled("arm + align(lora) - 0.5*align(other)", models=models)
    plainly = compiled("arm + lora4 - 0.5*base")
    assert aligned.plan.forwards == 2
    expected, found = (one.scores("the river", [9, 8]) for one in (plainly, aligned))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


SHORT = first(260) | {"</s>": 5}
SHORT |= {next(token for token, i in SHORT.items() if i == 5 and token != "</s>"): 2}


@pytest.fixture(scope="module")
def short(zoo) -> dict[str, Any]:
    """A model that lacks the last 40 tokens, and whose end of text is elsewhere."""
    return spec(zoo.model("arm"), SHORT)


def there(token: int) -> int | None:
    """A token's id in the model that lacks some."""
    return SHORT.get(tokenizer().convert_ids_to_tokens(token))


def lacking(token: int) -> bool:
    return there(token) is None


def test_what_a_model_lacks_it_gives_nothing_and_reads_in_pieces(zoo, compiled, short) -> None:
    decoder = compiled(MIX.format(x="align(short)"), models={"short": short})
    found = decoder.generate(PROMPTS, max_new_tokens=30, temperature=3.0, seed=1)
    assert any(lacking(token) for one in found for token in one.token_ids)
    prompt = "the river"
    made = found[0].token_ids[:-1]
    scores = decoder.scores(prompt, made)
    ids = short["tokenizer"](prompt)["input_ids"]
    for i, said in enumerate(scores):
        own = plain.logprobs(short["model"], ids + [t for one in made[:i] for t in spelled(one)])
        base = plain.logprobs(zoo.model("base"), tokenizer()(prompt)["input_ids"] + made[:i]).exp()
        given = torch.tensor([0.0 if lacking(t) else own[there(t)].exp() for t in range(300)])
        torch.testing.assert_close(said.exp(), (base + given) / 2, atol=1e-5, rtol=1e-4)


def spelled(token: int) -> list[int]:
    """A token in the model that lacks some, by its own tokenizer."""
    if not lacking(token):
        return [there(token)]
    made = renumbered(SHORT)
    return made.convert_tokens_to_ids(
        [
            piece.value
            for piece in made.backend_tokenizer.model.tokenize(
                tokenizer().convert_ids_to_tokens(token)
            )
        ]
    )


def test_in_a_sum_what_a_model_lacks_is_never_drawn(compiled, short) -> None:
    decoder = compiled("base + align(short)", models={"short": short})
    found = decoder.generate(PROMPTS, max_new_tokens=30, temperature=3.0, seed=1)
    assert not any(lacking(token) for one in found for token in one.token_ids)
    judged = compiled("base | best_of(align(short) - base, n=2)", models={"short": short})
    found = judged.generate(PROMPTS, max_new_tokens=30, temperature=3.0, seed=1)
    assert not any(lacking(token) for one in found for token in one.token_ids)


def test_what_a_formula_lacks_is_lost_and_not_shared_out(zoo, compiled, short) -> None:
    """The other way round: the mass beyond the formula's vocabulary stays there."""
    models = {"short": short, "arm": zoo.path("arm")}
    decoder = compiled("mix(0.25: short, 0.75: align(arm))", models=models)
    scores = decoder.scores("the river", [])[0].exp()
    assert len(scores) == 260
    own = plain.logprobs(zoo.model("arm"), tokenizer()("the river")["input_ids"]).exp()
    said = plain.logprobs(short["model"], short["tokenizer"]("the river")["input_ids"]).exp()
    kept = [(there(token), token) for token in range(300) if there(token) is not None]
    expected = torch.stack([0.25 * said[one] + 0.75 * own[two] for one, two in sorted(kept)])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    assert scores.sum() < 0.999


def test_a_weight_of_one_is_no_weight(compiled, short) -> None:
    """Also where it is a parameter, and where the parts beside it have none."""
    models, params = {"short": short}, {"a": 1, "b": 0}
    one, two = (
        compiled(f"mix(0.5: base, 0.5: {x})", models=models, params=params)
        for x in ("align(short)", "a*align(short) + b*base + a - 1")
    )
    found, expected = two.scores("a", []), one.scores("a", [])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    batch = two.generate(["a"] * 3, params={"a": [1, 0.5, 0], "b": [0, 0, 1]}, max_new_tokens=4)
    for (a, b), row in zip([(1, 0), (0.5, 0), (0, 1)], batch, strict=True):
        [alone] = two.generate("a", params={"a": a, "b": b}, max_new_tokens=4)
        assert row.token_ids == alone.token_ids


def test_a_row_without_the_model_is_not_held_to_its_tokens(compiled, short) -> None:
    decoder = compiled("base + a*align(short)", models={"short": short}, params={"a": 1})
    beyond = next(token for token in range(300) if there(token) is None)
    assert decoder.scores("a", [beyond], params={"a": 0}).isfinite().all()
    expected = compiled("base").generate(PROMPTS, temperature=2.0, seed=4, max_new_tokens=12)
    values = [1.0, 0.0, 1.0, 0.0, 0.0]
    found = decoder.generate(
        PROMPTS, params={"a": values}, temperature=2.0, seed=4, max_new_tokens=12
    )
    for value, one, other in zip(values, found, expected, strict=True):
        assert value == 1 or one.token_ids == other.token_ids
        assert value == 0 or all(there(token) is not None for token in one.token_ids)


def test_tokens_that_cannot_be_read_are_refused(zoo, compiled) -> None:
    ids = {f"<|{token}|>" if token == "<pad>" else token: i for token, i in turned().items()}
    odd = spec(zoo.model("arm"), turned()) | {"tokenizer": renumbered(ids, pad_token="</s>")}
    odd["tokenizer"].pad_token = odd["tokenizer"].unk_token = None
    decoder = compiled("mix(0.5: base, 0.5: align(odd))", models={"odd": odd})
    with pytest.raises(ValueError, match="the token id 0 cannot be read by odd"):
        decoder.scores("a", [7, 0])
    with pytest.raises(ValueError, match="cannot be read by odd\ngive the prompt as text"):
        decoder.generate([BOS, 0], max_new_tokens=2)
    assert decoder.scores("a", [7])[:, 0].tolist() == [-torch.inf] * 2
    assert "1 cannot be read and are never drawn" in str(decoder.plan)


def test_special_tokens_are_found_by_what_they_are_for(zoo, compiled) -> None:
    names = {"<s>": "<begin>", "</s>": "<end>"}
    ids = {names.get(token, token): i for token, i in turned().items()}
    other = {
        "model": moved(zoo.model("arm"), turned()),
        "tokenizer": renumbered(ids, bos_token="<begin>", eos_token="<end>"),
    }
    formula = "base + 0.5*align(other) - 0.2*align(other@none)"
    decoder = compiled(formula, models={"other": other})
    expected = compiled("base + 0.5*arm - 0.2*arm@none").scores([BOS, 9], [EOS, BOS, 4])
    torch.testing.assert_close(
        decoder.scores([BOS, 9], [EOS, BOS, 4]), expected, atol=1e-4, rtol=1e-4
    )
    assert "ends at [2]" in str(decoder.plan)


def roles(vocabulary: dict[str, int], **ids: int) -> Any:
    """What a tokenizer says of itself."""
    named = {f"{role}_token_id": i for role, i in ids.items()}
    return SimpleNamespace(get_vocab=lambda: vocabulary, decode=lambda ids, **_: "", **named)


def test_what_is_lost_is_lost_on_either_side_of_a_condition() -> None:
    """b wins by 0.31 to 0.24; if what the other gives to c were shared out, a would by far."""
    base = descant.TableModel(torch.tensor([0.4, 0.6]).log().expand(2, 2))
    other = descant.TableModel(torch.tensor([0.08, 0.02, 0.9]).log().expand(3, 3))
    models = {
        "base": {"model": base, "tokenizer": roles({"a": 0, "b": 1})},
        "other": {"model": other, "tokenizer": roles({"a": 0, "b": 1, "c": 2})},
    }
    chosen = "mix(0.5: base, 0.5: where(step < m, align(other), base))"
    for formula in (chosen, "mix(0.5: base, 0.5: align(other) + m)"):
        decoder = descant.compile(formula, models, params={"m": 0})
        found = decoder.generate([[0], [0]], params={"m": [30, 0]}, max_new_tokens=1)
        assert [one.token_ids for one in found] == [[1], [1]]


def test_nan_names_the_aligned_term(zoo, compiled) -> None:
    broken = spec(zoo.model("broken"), turned())
    decoder = compiled("base - align(broken)", models={"broken": broken})
    with pytest.raises(FormulaError, match=r"align\(broken\) gave NaN for row 0, token 0"):
        decoder.generate("a")


def test_no_token_counts_twice() -> None:
    """One end of text that is also the beginning and the padding is the end."""
    ours = roles({"<s>": 0, "</s>": 1, "<p>": 2, "a": 3, "<|end|>": 4}, bos=0, eos=1, pad=2)
    other = roles({"a": 0, "<|end|>": 1, "b": 2, "</s>": 3}, bos=1, eos=1, pad=1, unk=1)
    found = token_map(Vocabulary(ours, 5), Vocabulary(other, 4))
    assert found.other_ids == (-1, 1, -1, 0, -1)
    assert found.formula_ids == {1: 1, 0: 3}
    assert token_map(Vocabulary(ours, 3), Vocabulary(other, 4)).other_ids == (-1, 1, -1)
    assert token_map(Vocabulary(ours, 5), Vocabulary(other, 1)).other_ids == (-1, -1, -1, 0, -1)


def test_one_vocabulary_is_one_lane(zoo, compiled) -> None:
    decoder = compiled("base + align(base) + 0.5*align(padded) - align(lora4)")
    assert decoder.plan.forwards == 2
    expected = compiled("2*base + 0.5*padded - lora4").scores("a", [7])
    torch.testing.assert_close(decoder.scores("a", [7]), expected, atol=1e-4, rtol=1e-4)
    assert any("align(base): its vocabulary is the formula's" in one for one in decoder.plan.notes)
    assert any("padded: 32 rows of 332 are cut" in one for one in decoder.plan.notes)


def test_rows_of_padding_are_no_part_of_a_vocabulary(zoo, compiled) -> None:
    model = fresh(zoo.path("padded"))
    model.resize_token_embeddings(310)
    longer = {"model": model, "tokenizer": tokenizer(305)}
    plan = compiled("base + align(longer)", models={"longer": longer}).plan
    assert "longer: 5 rows of 310 are cut; 5 are padding beyond the tokenizer" in plan.notes


def test_the_plan_says_what_is_mapped(compiled, short, caplog) -> None:
    decoder = compiled("base + align(short)", models={"short": short})
    assert list(decoder.plan.notes) == [
        "align(short): 260 of 300 tokens of the vocabulary have a counterpart; "
        "40 are given nothing, and read as the tokens that spell them",
        "align(short): 260 of its own 260 tokens are one",
        "base, short: text is read as it is, messages by the chat template "
        "(with template: chat, both)",
    ]
    assert "align(short)  1            B     the prompt, in its own tokens" in str(decoder.plan)
    assert not caplog.records


def test_few_counterparts_are_a_warning(zoo, compiled, caplog) -> None:
    ids = {token if i < 20 else f"{token}?": i for token, i in tokenizer().get_vocab().items()}
    few = {"model": zoo.model("arm"), "tokenizer": renumbered(ids)}
    with caplog.at_level(logging.WARNING, logger="descant"):
        compiled("base + align(few)", models={"few": few})
    assert "align(few): only 20 of 300 tokens of the vocabulary have a counterpart" in caplog.text


def test_an_end_of_text_that_cannot_be_read_is_said(zoo, compiled, caplog) -> None:
    ids = {"<|stop|>" if token == "</s>" else token: i for token, i in turned().items()}
    endless = {
        "model": moved(zoo.model("arm"), turned()),
        "tokenizer": renumbered(ids, eos_token="<pad>"),
    }
    endless["tokenizer"].eos_token = None
    with caplog.at_level(logging.WARNING, logger="descant"):
        plan = compiled("base + align(endless)", models={"endless": endless}).plan
    assert "align(endless): no text ends at [2], which it cannot read" in caplog.text
    assert "no text ends at [2]" in str(plan)


def test_tables_have_nothing_to_map_by() -> None:
    tables = {name: descant.TableModel.random(size, 1) for name, size in (("a", 8), ("b", 8))}
    decoder = descant.compile("a + align(b)", tables)
    assert decoder.plan.forwards == 2
    torch.testing.assert_close(
        decoder.scores([1], [2]), descant.compile("a + b", tables).scores([1], [2])
    )
    tables["b"] = descant.TableModel.random(9, 1)
    with pytest.raises(FormulaError) as caught:
        descant.compile("a + align(b)", tables)
    assert "b has no tokenizer; b has 9 tokens, the formula 8" in caught.value.problem
    assert (caught.value.span.start, caught.value.span.end) == (4, 12)


@pytest.mark.parametrize(
    ("formula", "carets", "problem", "cure"),
    [
        ("base + align(rm)", "       ^^^^^^^^^", "rm is a reward model", "leave align out"),
        ("base | rerank(align(rm))", "              ^^^^^^^^^", "rm is a reward", "by itself"),
        ("base | best_of(align(rm), n=2)", "               ^^^^^^^^^", "rm is a", "leave align"),
        (
            "base | rerank(align(arm))",
            "              ^^^^^^^^^^",
            "arm is a language",
            "use a search",
        ),
        ("base + other", "       ^^^^^", "other has another vocabulary", "write align(other) to"),
    ],
)
def test_refusals(compiled, formula, carets, problem, cure) -> None:
    with pytest.raises(FormulaError) as caught:
        compiled(formula)
    span = caught.value.span
    assert " " * span.start + "^" * (span.end - span.start) == carets
    assert problem in caught.value.problem and cure in caught.value.cure
