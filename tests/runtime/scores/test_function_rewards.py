"""Python functions as rewards: the plain rule with the function on decoded texts, and failures."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from doc_pages import Page
from reference_rules.plain import logprobs
from reference_rules.search import blockwise
from tokenizer_models import models

import descant
from descant import FormulaError, ModelError
from descant.errors import ArgumentError, DescantError
from descant.inputs.runfile import validated
from descant.models import make_spec
from descant.runtime import Service
from descant.runtime.scores.noise import gumbel, seed_key

PROMPTS = ["Boil the egg", "A good place", [{"role": "user", "content": "So?"}]]
TOKENIZER = models()["q"]["tokenizer"]
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
BASE = {**models()["q"], "template": CHAT}


class Vowels:
    """Vowels and short answers are good; it keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, prompts, completions, **kwargs):
        self.calls.append({"prompts": prompts, "completions": completions, **kwargs})
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return np.array([worth(text) for text in texts])


def worth(text: str) -> float:
    return sum(text.count(v) for v in "aeiou") - 0.11 * len(text) + 0.01 * sum(map(ord, text[-1:]))


def decoder(formula: str, function: Any, **more: Any) -> descant.Decoder:
    declared = {"base": BASE, "ok": descant.reward(function), **more}
    return descant.compile(formula, declared, device="cpu")


def text_of(ids) -> str:
    """As the tokens continue a text."""
    return TOKENIZER.decode([*TOKENIZER.encode("a"), *ids], skip_special_tokens=True)[1:]


def ids_of(prompt: Any) -> list[int]:
    """As the chat template reads text and messages."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text = "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def args(prompt: list[int], k: int, w: float, most: int, norm: str = "") -> list[int]:
    """ARGS-greedy with the function, recomputed at every step."""
    answer: list[int] = []
    for _ in range(most):
        scores = logprobs(BASE["model"], [*prompt, *answer])
        best = scores.topk(k)
        before = worth(text_of(answer)) if norm else 0.0
        values = [
            s + w * (worth(text_of([*answer, v])) - before)
            for s, v in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        answer.append(best.indices[max(range(k), key=values.__getitem__)].item())
        if answer[-1] == TOKENIZER.eos_token_id:
            break
    return answer


@pytest.mark.parametrize("norm", ["", ", norm=prefix"])
def test_rerank_is_the_plain_rule_and_calls_once_per_step(norm) -> None:
    function = Vowels()
    formula = f"base | rerank(ok, k=4, w=1.5{norm})"
    batch = decoder(formula, function).generate(PROMPTS, max_new_tokens=8)
    steps = max(len(one.token_ids) for one in batch)
    assert len(function.calls) == steps
    for call in function.calls:
        pairs = list(zip(map(str, call["prompts"]), map(str, call["completions"]), strict=True))
        tokens = [tuple(ids) for ids in call["completion_ids"]]
        assert len(set(zip(pairs, tokens, strict=True))) == len(pairs), "each answer once"
    assert len(function.calls[0]["prompts"]) == len(PROMPTS) * (5 if norm else 4)
    for prompt, one in zip(PROMPTS, batch, strict=True):
        expected = args(ids_of(prompt), 4, 1.5, 8, norm)
        assert one.token_ids == expected
        [alone] = decoder(formula, Vowels()).generate(prompt, max_new_tokens=8)
        assert alone.token_ids == expected
        [drafted] = decoder(formula, Vowels()).generate(prompt, max_new_tokens=8, draft="base")
        assert drafted.token_ids == expected
    assert "Python function" in str(decoder(formula, worth_of).plan)


def worth_of(completions):
    """Takes completions alone, of texts."""
    return [worth(text) for text in completions]


@pytest.mark.parametrize(
    ("formula", "beams", "samples", "length"),
    [("base | best_of(ok, n=4)", 1, 4, 9),
     ("base | blockwise(2*ok - 1, beams=2, samples=2, length=3)", 2, 2, 3)],
)  # fmt: skip
def test_searches_are_the_plain_rule_with_one_call_per_valuation(formula, beams, samples, length):
    function, most = Vowels(), 9
    searched = decoder(formula, function)
    found = searched.generate(PROMPTS[:2], max_new_tokens=most, seed=5)
    assert len(function.calls) <= 2 * most // length
    for prompt, completion in zip(PROMPTS, found, strict=False):
        ids = ids_of(prompt)

        def draw(sample: int, answer: list[int], ids=ids) -> int:
            high, low = seed_key(5)
            key = torch.tensor([seed_key((high << 32) ^ low, sample)], dtype=torch.int32)
            scores = logprobs(BASE["model"], [*ids, *answer])
            return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

        judge = lambda answer: worth(text_of(answer))  # noqa: E731
        expected = blockwise(draw, judge, beams, samples, length, most, TOKENIZER.eos_token_id)
        assert completion.token_ids == expected
        assert completion.text in function.calls[-1]["completions"]
    assert "1 forward," in str(searched.plan), "a function is no forward"


def test_prompts_are_what_users_give() -> None:
    """As TRL: messages and one assistant message, an answer that is begun with it; token ids."""
    function = Vowels()
    begun = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Well"}]
    prompts = ["Boil", PROMPTS[2], begun, [7, 8, 9]]
    made = decoder("base | best_of(ok, n=1)", function).generate(prompts, max_new_tokens=4, seed=1)
    [call] = function.calls
    given = dict(zip(map(str, call["prompts"]), call["completions"], strict=True))
    assert given == {
        "Boil": made[0].text,
        str(PROMPTS[2]): [{"role": "assistant", "content": made[1].text}],
        str(begun[:1]): [{"role": "assistant", "content": "Well" + str(made[2].text)}],
        "[7, 8, 9]": made[3].text,
    }
    assert len(begun) == 2, "messages stay as they are"
    assert set(map(tuple, call["completion_ids"])) == {tuple(one.token_ids) for one in made}
    assert set(call) == {"prompts", "completions", "completion_ids"}


def test_coroutine_functions_and_numbers_of_other_libraries() -> None:
    async def judged(completions, **kwargs):
        return torch.tensor([worth(text) for text in completions])

    formula = "base | rerank(ok, k=4, w=1.5)"
    expected = decoder(formula, worth_of).generate(PROMPTS[:2], max_new_tokens=5)
    found = decoder(formula, judged).generate(PROMPTS[:2], max_new_tokens=5)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]


def failing(kind: str, prompts, completions):
    """Fails for answers to the second prompt."""
    rewards: list[Any] = [worth(text) for text in completions]
    if PROMPTS[1] in prompts:
        if kind == "raises":
            raise KeyError("truth")
        if kind == "count":
            return rewards[:-1]
        wrong = {"None": None, "nan": float("nan"), "text": "1.0"}[kind]
        return [wrong if p == PROMPTS[1] else r for p, r in zip(prompts, rewards, strict=True)]
    return rewards


SAID = {
    "raises": "raises KeyError: 'truth'", "None": "returns None for the completion",
    "nan": "returns nan for the completion", "text": "returns '1.0' for the completion",
}  # fmt: skip


@pytest.mark.parametrize("formula", ["base | rerank(ok, k=3)", "base | best_of(ok, n=2)"])
@pytest.mark.parametrize("kind", SAID)
def test_what_fails_fails_for_its_row_alone(formula, kind) -> None:
    declared = {"base": BASE, "ok": descant.reward(partial(failing, kind))}
    service = Service({n: make_spec(n, m) for n, m in declared.items()}, slots=4, max_model_len=64)
    served = service.decoder(formula)
    for prompt in PROMPTS[:2]:
        service.submit(served, prompt, max_new_tokens=4, seed=2)
    ended = {}
    while service.busy:
        ended |= {each.request.prompt: each for each in service.step() if each.finish_reason}
    error = ended[PROMPTS[1]].error
    assert isinstance(error, FormulaError) and error.__cause__ is not None
    lines = str(error).splitlines()
    assert lines[0].startswith("ok calls failing, which " + SAID[kind]), lines[0]
    assert lines[2].strip() == "^^" and "for row 0" in lines[0]
    [alone] = decoder(formula, worth_of).generate(PROMPTS[0], max_new_tokens=4, seed=2)
    assert ended[PROMPTS[0]].tokens == alone.token_ids
    with pytest.raises(FormulaError, match="row 1"):
        decoder(formula, partial(failing, kind)).generate(PROMPTS[:2], max_new_tokens=4, seed=2)


def run_file(spec: Any) -> None:
    validated({"formula": "base | rerank(ok)", "models": {"base": "x", "ok": spec}}, "here")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: descant.reward(lambda completions, truth: []), "needs truth.*functools.partial"),
        (lambda: descant.reward(lambda texts=(): []), "takes none of prompts, completions"),
        (lambda: run_file({"model": "exact"}), "this is 'exact'.*a function is a reward in Python"),
        (lambda: run_file({"function": "a:b"}), "models.ok.function; a function is a reward in Py"),
        (lambda: descant.reward("exact"), "takes a function.*this is str"),
        (lambda: decoder("base | rerank(ok)", partial(failing, "count")).generate(PROMPTS[1]),
         "ok calls failing, which returns 7 rewards for 8 completions"),
        (lambda: descant.compile("base | rerank(f)", {"base": BASE, "f": worth_of}),
         r"worth_of is a function; as a reward, write descant.reward\(worth_of\)"),
        (lambda: decoder("base | rerank(ok@none)", worth_of), "is given prompts as they are"),
        (lambda: decoder("base + ok", worth_of), "a reward model, and a term is a language model"),
        (lambda: decoder("base | rerank(g)", worth_of, g={
            "model": descant.reward(worth_of), "template": "{prompt}"}), "leave template out"),
        (lambda: descant.compile("t | rerank(f)", {
            "t": descant.TableModel(torch.eye(3)), "f": descant.reward(worth_of)}),
         "have no tokenizer"),
        (lambda: descant.score(descant.reward(lambda completion_ids: []), ["a"], ["b"]),
         "needs completion_ids, and texts have none"),
        (lambda: descant.score(descant.reward(partial(failing, "None")), [PROMPTS[1]], ["b"]),
         "returns None for the completion …'b'"),
    ],
)  # fmt: skip
def test_errors_say_what_to_write(make, message) -> None:
    with pytest.raises((FormulaError, ModelError, ArgumentError, DescantError), match=message):
        make()


def test_the_page_prints_what_it_shows() -> None:
    assert len(Page("docs/rewards.md").check()) == 2


def test_texts_are_scored_in_one_call() -> None:
    function = Vowels()
    found = descant.score("ok", PROMPTS, ["aa", "b", "ei"], models={"ok": descant.reward(function)})
    assert found == pytest.approx([worth("aa"), worth("b"), worth("ei")])
    [call] = function.calls
    assert call["prompts"] == PROMPTS and "completion_ids" not in call
