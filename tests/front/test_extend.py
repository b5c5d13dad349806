"""Stages and functions of one's own: signatures, values per row, and mistakes that are marked."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

import descant

TABLE = descant.TableModel.random(12, seed=4)


def sharpen_stage():
    @descant.stage
    def sharpen(scores, power=2.0, shift: int = 0):
        """Multiplies the scores by power."""
        return scores * power + shift

    return sharpen


def test_a_stage_is_its_function_with_a_value_per_row():
    sharpen_stage()
    plain = descant.compile("base", {"base": TABLE}).scores([3], [1])
    decoder = descant.compile("base | sharpen(power=a)", {"base": TABLE}, params={"a": 2})
    for a in (0.5, 2.0, 3.0):
        torch.testing.assert_close(decoder.scores([3], [1], params={"a": a}), plain * a)
    assert str(decoder.plan).count("sharpen(power=a, shift=0)") == 1


def test_excluded_tokens_stay_excluded():
    sharpen_stage()
    decoder = descant.compile("base | top_k(3) | sharpen(power=-1)", {"base": TABLE})
    scores = decoder.scores([3], [])
    assert int((scores > -math.inf).sum()) == 3
    assert bool((scores < math.inf).all())


@pytest.mark.parametrize(
    ("formula", "problem", "cure"),
    [
        ("base | sharpen(pwer=2)", "sharpen has no argument pwer", "did you mean power?"),
        ("base | sharpen(shift=0.5)", "shift of sharpen must be a whole number, not 0.5", ""),
        ("base | sharpen(1, 2, 3)", "sharpen takes at most 2 arguments", "write sharpen("),
        ("base | sharpn()", "there is no stage sharpn", "did you mean sharpen?"),
    ],
)
def test_its_mistakes_are_marked(formula, problem, cure):
    sharpen_stage()
    with pytest.raises(descant.FormulaError) as caught:
        descant.compile(formula, {"base": TABLE})
    assert caught.value.problem == problem
    assert caught.value.cure.startswith(cure)


def test_a_wrong_shape_is_said():
    @descant.stage
    def broken(scores):
        return scores[:, :2]

    with pytest.raises(ValueError, match="the stage broken returned"):
        descant.compile("base | broken()", {"base": TABLE}).generate([3], max_new_tokens=1)


def test_a_name_is_taken_once():
    sharpen_stage()
    for name in ("sharpen", "rerank", "max", "exp", "a b"):
        with pytest.raises(ValueError, match=r"already|is not a name"):
            descant.logits_processor(name, NoRepeatNGramLogitsProcessor(2))


@pytest.mark.parametrize(
    "processor", [NoRepeatNGramLogitsProcessor(2), RepetitionPenaltyLogitsProcessor(1.3)]
)
def test_a_processor_of_transformers(processor):
    descant.logits_processor("wrapped", processor)
    decoder = descant.compile("base | wrapped()", {"base": TABLE})
    prompts = [[3, 5], [7], [1, 2, 1]]
    for prompt, out in zip(prompts, decoder.generate(prompts, max_new_tokens=8), strict=True):
        text = list(prompt)
        for token in out.token_ids:
            scores = TABLE.table[text[-1]].log_softmax(-1)[None].clone()
            assert token == int(processor(torch.tensor([text]), scores).argmax())
            text.append(token)


def test_a_processor_is_given_what_each_row_has_read():
    """Also where a row has no use for the first term."""
    seen = []
    descant.logits_processor("spied", lambda ids, scores: seen.append(ids[0].tolist()) or scores)
    models = {"base": TABLE, "arm": descant.TableModel.random(12, seed=5)}
    decoder = descant.compile("a*base + arm | spied()", models, params={"a": 1})
    decoder.generate([[3, 5], [7, 1]], params={"a": [0, 1]}, max_new_tokens=1)
    assert seen == [[3, 5], [7, 1]]
    seen.clear()
    for name, ids in (("base", range(12)), ("arm", range(11, -1, -1))):
        said = {"get_vocab": lambda ids=ids: dict(zip("abcdefghijkl", ids, strict=True))}
        tokenizer = SimpleNamespace(decode=lambda ids, **_: "", bos_token_id=None, **said)
        models[name] = {"model": models[name], "tokenizer": tokenizer, "prefix": [4]}
    decoder = descant.compile("align(arm) + a*base | spied()", models, params={"a": 1})
    decoder.generate([[3, 5], [7, 1]], params={"a": [0, 1]}, max_new_tokens=1)
    assert seen == [[7, 3, 5], [4, 7, 1]]


def test_a_function_of_numbers():
    @descant.scalar_function
    def logistic(x):
        return 1 / (1 + math.exp(-x))

    decoder = descant.compile("logistic(a)*base", {"base": TABLE}, params={"a": 0})
    plain = descant.compile("base", {"base": TABLE}).scores([3], [])
    for a in (0.0, 1.5):
        torch.testing.assert_close(decoder.scores([3], [], params={"a": a}), plain * logistic(a))
