"""Fields of a request against transformers' processors, vLLM's formulas, and stages by hand."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from checkpoints import tokenizer as checkpoint_tokenizer
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import descant
from descant import RuleReward, TableModel
from descant.models import make_spec
from descant.runtime.service import Service

V, EOS = 17, 4
RANDOM = torch.Generator().manual_seed(8)
TABLES = {name: torch.randn(V, V, generator=RANDOM) for name in ("base", "arm", "rm")}
TABLES["base"][:, 5] += 1.5  # so that tokens come again
MODELS: dict[str, Any] = {
    "base": TableModel(TABLES["base"], eos=EOS),
    "arm": TableModel(TABLES["arm"], eos=EOS),
    "rm": RuleReward(TABLES["rm"]),
}
PROMPTS = [[5, 1], [3], [5, 6], [9, 9, 2]]
FIELDS: dict[str, list[Any]] = {  # of four rows, the last without any
    "top_k": [5, 0, 3, None],
    "top_p": [0.8, 0.6, 1, None],
    "min_p": [None, 0.05, 0.1, 0],
    "repetition_penalty": [1.3, None, 0.9, 1],
    "presence_penalty": [0.4, 0, -0.5, None],
    "frequency_penalty": [0.2, 0.7, None, 0],
    "logit_bias": [{5: -1.5, 7: 2}, None, {"4": 8}, {}],
    "min_tokens": [3, None, 6, 0],
}
HEATS = [0.7, 1.3, 1.0, 0.8]
SAMPLED = {"max_new_tokens": 12, "temperature": HEATS, "seed": [1, 2, 3, 4]}


def compiled(formula: str, **more):
    return descant.compile(formula, MODELS, **more)


def of_row(row: int) -> dict[str, Any]:
    return {name: values[row] for name, values in FIELDS.items() if values[row] is not None}


def drawn_from(row: int, answer: list[int]) -> torch.Tensor:
    """``(V,)`` the log-probabilities that a row's next token is drawn from, by its own fields."""
    prompt, fields = PROMPTS[row], of_row(row)
    ids = torch.tensor([[*prompt, *answer]])
    scores = TABLES["base"][ids[:, -1]].log_softmax(-1)
    before = LogitsProcessorList()
    if least := fields.get("min_tokens"):
        before.append(MinNewTokensLengthLogitsProcessor(len(prompt), least, EOS, device="cpu"))
    if bias := fields.get("logit_bias"):
        pairs = {(int(token),): float(number) for token, number in bias.items()}
        before.append(SequenceBiasLogitsProcessor(pairs))
    if (penalty := fields.get("repetition_penalty", 1)) != 1:
        before.append(RepetitionPenaltyLogitsProcessor(float(penalty)))
    scores = before(ids, scores)
    for token, count in Counter(answer).items():  # vLLM
        scores[0, token] -= fields.get("frequency_penalty", 0) * count
        scores[0, token] -= fields.get("presence_penalty", 0)
    after = LogitsProcessorList([TemperatureLogitsWarper(HEATS[row])])
    if k := fields.get("top_k"):
        after.append(TopKLogitsWarper(k))
    if (p := fields.get("top_p", 1)) < 1:
        after.append(TopPLogitsWarper(p))
    if p := fields.get("min_p"):
        after.append(MinPLogitsWarper(p))
    return after(ids, scores)[0].log_softmax(-1)


def test_every_row_draws_by_its_own_fields() -> None:
    """A batch of unlike rows, and what each token was drawn from."""
    decoder = compiled("base")
    asked = {"logprobs": True, "top_logprobs": V, "logprobs_mode": "processed_logprobs"}
    found = decoder.generate(PROMPTS, **SAMPLED, **FIELDS, **asked)
    for row, completion in enumerate(found):
        assert completion.top_logprobs is not None
        for i, best in enumerate(completion.top_logprobs):
            expected = drawn_from(row, completion.token_ids[:i])
            dense = torch.full((V,), -torch.inf)
            dense[list(best)] = torch.tensor([*best.values()])
            torch.testing.assert_close(dense, expected, atol=2e-5, rtol=2e-5)
    assert len({completion.finish_reason for completion in found}) == 2


def by_hand(own: str, search: str) -> str:
    """The same stages, written into the formula; a bias of each token that any row has."""
    return (
        "base + 0.5*arm | min_tokens(n) | logit_bias({4: b4, 5: b5, 7: b7}) "
        "| repetition_penalty(r) | frequency_penalty(f) | presence_penalty(x)"
        f"{own} | temperature(t) | top_k(k) | top_p(p) | min_p(m){search}"
    )


def by_hand_params() -> dict[str, list[float]]:
    names = {"n": "min_tokens", "r": "repetition_penalty", "f": "frequency_penalty"}
    names |= {"x": "presence_penalty", "k": "top_k", "p": "top_p", "m": "min_p"}
    neutral = {"r": 1, "k": V, "p": 1}
    params = {
        key: [value or neutral.get(key, 0) for value in FIELDS[name]] for key, name in names.items()
    }
    biases = [{int(k): v for k, v in (each or {}).items()} for each in FIELDS["logit_bias"]]
    return params | {f"b{i}": [each.get(i, 0) for each in biases] for i in (4, 5, 7)} | {"t": HEATS}


@pytest.mark.parametrize(
    ("own", "search"),
    [("", ""), (" | rerank(rm, k=4, w=0.7) | top_k(9)", ""), ("", " | best_of(rm, n=3)"),
     (" | top_k(9)", " | blockwise(rm, beams=2, samples=2, length=3)")],
)  # fmt: skip
def test_fields_are_stages(own, search) -> None:
    """The same tokens as of a formula with these stages, alone and together."""
    decoder = compiled(f"base + 0.5*arm{own}{search}")
    written = compiled(by_hand(own, search), params=dict.fromkeys("nrfxkpmt", 1) | {
        "b4": 0, "b5": 0, "b7": 0})  # fmt: skip
    settings = SAMPLED | {"temperature": 1.0}
    expected = written.generate(PROMPTS, **settings, params=by_hand_params())
    together = decoder.generate(PROMPTS, **SAMPLED, **FIELDS, batch_size=3)
    assert [each.token_ids for each in together] == [each.token_ids for each in expected]
    assert together[0].params == {}
    if not search:
        for row, prompt in enumerate(PROMPTS):
            own_settings = {"max_new_tokens": 12, "temperature": HEATS[row], "seed": row + 1}
            pieces = [*decoder.stream(prompt, **own_settings, **of_row(row))]
            assert pieces == together[row].token_ids


def test_log_probabilities_are_of_the_formula() -> None:
    """Of its own stages alone, as ``loglikelihood`` has them; greedy rows too."""
    decoder = compiled("base + 0.5*arm | top_k(12)")
    for heat in (0.0, 0.9):
        settings = SAMPLED | {"temperature": heat}
        found = decoder.generate(PROMPTS, **settings, **FIELDS, logprobs=True)
        answers = [each.token_ids for each in found]
        for own, each in zip(found, decoder.loglikelihood(PROMPTS, answers), strict=True):
            assert own.logprobs == pytest.approx(each.logprobs, abs=1e-4)


@pytest.mark.parametrize("draft", ["arm", "prompt", "auto", "base | top_k(3)"])
def test_drafts_change_no_token(draft) -> None:
    decoder = compiled("base + 0.5*arm")
    expected = decoder.generate(PROMPTS, **SAMPLED, **FIELDS)
    drafted = decoder.generate(PROMPTS, **SAMPLED, **FIELDS, draft=draft, draft_length=3)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in expected]
    session = decoder.session_of(draft, (True, True))
    assert session.engine.stats.accepted > 0 or draft in ("prompt", "auto")


def test_what_changes_nothing_is_not_there() -> None:
    """Neutral values, and what leaves the best token as it is, decode the formula itself."""
    decoder = compiled("base")
    neutral = {"top_k": [0, -1, None, 0], "top_p": 1, "min_p": 0.0, "repetition_penalty": 1.0}
    neutral |= {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "min_tokens": 0}
    expected = decoder.generate(PROMPTS, **SAMPLED)
    found = decoder.generate(PROMPTS, **SAMPLED, **neutral)
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    decoder.generate(PROMPTS, max_new_tokens=3, top_k=2, top_p=0.5, min_p=0.3)
    assert len(decoder._sessions) == 1
    decoder.generate(PROMPTS, max_new_tokens=3, presence_penalty=2)
    assert len(decoder._sessions) == 2


def test_a_service_draws_the_same() -> None:
    """In the steps of rows without fields, and inspected."""
    specs = {name: make_spec(name, model) for name, model in MODELS.items()}
    service = Service(specs, slots=4, max_model_len=64)
    decoder = compiled("base + 0.5*arm")
    served = service.decoder("base + 0.5*arm", fields=(True, True))
    plain = service.decoder("base + 0.5*arm")
    requests, answers = [], {}
    for row, prompt in enumerate(PROMPTS):
        settings = {"max_new_tokens": 12, "temperature": HEATS[row], "seed": row + 1}
        requests += service.submit(served, prompt, **settings, **of_row(row))
        requests += service.submit(plain, prompt, **settings)
    while service.busy:
        answers |= {id(each.request): each.tokens for each in service.step()}
    expected = decoder.generate(PROMPTS, **SAMPLED, **FIELDS), decoder.generate(PROMPTS, **SAMPLED)
    for row in range(4):
        for number, each in enumerate(expected):
            assert answers[id(requests[2 * row + number])] == each[row].token_ids
    inspection = decoder.inspect(
        PROMPTS[0], max_new_tokens=12, temperature=0.7, seed=1, **of_row(0)
    )
    assert [each.id for each in inspection.tokens] == expected[0][0].token_ids


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"top_k": 2.5}, "top_k is 2.5, and must be a whole number"),
        ({"top_p": 0}, "top_p is 0, and must be above 0"),
        ({"min_p": 2}, "min_p is 2, and must be at most 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, and must be above 0"),
        ({"presence_penalty": float("nan")}, "presence_penalty is nan; it is a number"),
        ({"frequency_penalty": "a"}, "frequency_penalty is 'a'; it is a number"),
        ({"top_k": [1, 2]}, "top_k has 2 values and there are 1 rows"),
        ({"logit_bias": {17: 1}}, "logit_bias has the token id 17, and the vocabulary has 17"),
        ({"logit_bias": {"the": 1}}, "a token id of logit_bias is 'the'"),
        ({"logit_bias": {3: "x"}}, "logit_bias has 'x' for 3; give a number"),
        ({"logit_bias": [{3: 1}] * 2}, "logit_bias has 2 values and there are 1 rows"),
        ({"min_tokens": -1}, "min_tokens is -1, and must be at least 0"),
        ({"stop_token_ids": [99]}, "stop_token_ids is 99"),
        ({"ignore_eos": 1}, "ignore_eos is 1, and it is true or false"),
        ({"min_new_tokens": 3}, "it is called min_tokens here"),
    ],
)
def test_values_that_a_field_cannot_have(arguments, said) -> None:
    with pytest.raises((ValueError, TypeError), match=said.replace("(", r"\(")):
        compiled("base").generate([1], max_new_tokens=1, temperature=1.0, **arguments)


ENDING = {"tokenizer": checkpoint_tokenizer()}


def said(ids: list[int], **arguments: Any) -> Any:
    """The completion of a model that says these tokens, whatever it reads."""
    size = len(ENDING["tokenizer"])
    table = torch.zeros(size, size)
    prompt = ids[0]
    for token, after in pairwise(ids):
        table[token, after] = 20.0
    models = {"base": {"model": TableModel(table, eos=ids[-1]), **ENDING}}
    [completion] = descant.compile("base", models).generate(
        [[prompt]], **{"max_new_tokens": 12, **arguments}
    )
    return completion


def test_what_ends_a_row_and_what_of_it_is_text() -> None:
    tokenizer = ENDING["tokenizer"]
    a, b, c = tokenizer("abc", add_special_tokens=False)["input_ids"][:3]
    eos, x = tokenizer.eos_token_id, tokenizer("x", add_special_tokens=False)["input_ids"][-1]
    text = tokenizer.decode([a, b, c])
    name, ids = tokenizer.convert_ids_to_tokens(eos), [x, a, b, c, eos]

    def found(**arguments):
        own = said(ids, **arguments)
        return own.text, own.token_ids, own.finish_reason

    assert found() == (text, ids[1:], "eos")
    assert found(skip_special_tokens=False) == (text, ids[1:], "eos")
    shown = {"skip_special_tokens": False, "include_stop_str_in_output": True}
    assert found(**shown) == (text + name, ids[1:], "eos")
    assert found(stop_token_ids=[c]) == (tokenizer.decode([a, b]), [a, b, c], "stop")
    stopped = found(stop_token_ids=[c], include_stop_str_in_output=True)
    assert stopped == (text, [a, b, c], "stop")
    middle = tokenizer.decode([b])
    assert found(stop_strings=middle)[0] == tokenizer.decode([a])
    assert found(stop_strings=middle, include_stop_str_in_output=True)[0] == tokenizer.decode(
        [a, b]
    )
    late = found(stop_strings=middle, min_tokens=2)
    assert late == (text, ids[1:], "eos")  # vLLM looks for none before
    endless = found(ignore_eos=True, max_new_tokens=6)
    assert len(endless[1]) == 6 and endless[2] == "length"
    assert found(ignore_eos=True, stop_token_ids=[eos])[2] == "stop"
    forced = said(ids, min_tokens=6)
    assert eos not in forced.token_ids[:6] and len(forced.token_ids) >= 6


def test_particles_weigh_masks_at_the_requests_temperature() -> None:
    """A field that excludes nothing leaves every weight as it is."""
    tokenizer = ENDING["tokenizer"]
    size = len(tokenizer)
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(2))
    models = {"base": {"model": TableModel(table, eos=tokenizer.eos_token_id), **ENDING}}
    decoder = descant.compile("base | particles(0*base, n=4, length=2)", models)
    settings = {"max_new_tokens": 8, "temperature": 0.6, "seed": 3, "return_particles": True}
    settings["structured_outputs"] = {"choice": ["abc", "cab", "aab"]}
    [plain] = decoder.generate("x", **settings)
    [found] = decoder.generate("x", **settings, min_p=1e-12)
    assert found.token_ids == plain.token_ids
    assert found.log_normalizer == pytest.approx(plain.log_normalizer, abs=1e-4)
    [hot] = decoder.generate("x", **settings | {"temperature": 1.0}, min_p=1e-12)
    assert hot.log_normalizer != pytest.approx(plain.log_normalizer, abs=1e-2)


def test_a_run_files_section_has_them() -> None:
    from descant.inputs.sections import Generate

    section = {"top_p": 0.8, "temperature": 0.9, "seed": 1, "frequency_penalty": 0.5}
    section |= {"logit_bias": {"5": -2}, "min_tokens": 3, "max_new_tokens": 8}
    arguments = Generate.model_validate(section).model_dump()
    [found] = compiled("base").generate([5], **arguments)
    [expected] = compiled("base").generate([5], **section)
    assert found.token_ids == expected.token_ids
    for wrong in ({"top_p": 0}, {"logit_bias": {"a": 1}}, {"min_tokens": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Generate.model_validate(wrong)
