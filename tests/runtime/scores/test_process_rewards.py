"""Process rewards: each step's end is scored as its text alone, by Hugging Face, and reduced."""

from __future__ import annotations

import math

import pytest
from judges import alone, by_itself, judge, language, written
from reference_rules import plain
from transformers import AutoModelForCausalLM, AutoTokenizer

import descant
from descant import ModelError

BY = " on"  # within a token, and across several
PROMPT, TEXT = "the river goes", " on and on to the sea. I am naïve on the on"
CASES = [  # the reward's family, its tokenizer and its labels; what its own forward says
    ("llama", "sentences", 1, alone), ("gpt2", "words", 3, alone),
    ("llama", "byte_level", 1, alone), ("bert", "words", 2, by_itself),
]  # fmt: skip


def ends(text: str) -> list[str]:
    """What is scored: the text up to the end of each step."""
    parts = text.split(BY)
    found = [BY.join(parts[:i]) + BY for i in range(1, len(parts))]
    return found + [text] * (parts[-1] != "" or not found)


def rule(values: list[float], reduce: str, logs: bool) -> float:
    if reduce in ("min", "last"):
        return min(values) if reduce == "min" else values[-1]
    values = [math.exp(value) for value in values] if logs else values
    found = math.prod(values) if reduce == "prod" else sum(values) / len(values)
    return math.log(found) if logs else found


class Case:
    def __init__(self, folder, family, tokens, labels, forward) -> None:
        self.path, self.labels, self.forward = (
            judge(folder / "rm", family, tokens, num_labels=labels),
            labels,
            forward,
        )
        self.base = language(folder / "base", "byte_level")
        self.own = AutoTokenizer.from_pretrained(self.base)
        self.model = AutoModelForCausalLM.from_pretrained(self.base).eval()

    def spec(self, reduce: str) -> dict:
        label = {"label": self.labels - 1} if self.labels > 1 else {}
        return {
            "path": self.path,
            "steps": {"by": BY, "reduce": reduce},
            "tokenizer": self.path,
            **label,
        }

    def reward(self, prompt: str, text: str, reduce: str) -> float:
        values = [self.forward(self.path, prompt + end)[-1].item() for end in ends(text)]
        return rule(values, reduce, self.labels > 1)

    def text(self, made) -> str:
        return written(self.own, self.own(PROMPT)["input_ids"], made)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case[:3])))
def case(request, tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("steps"), *request.param)


@pytest.mark.parametrize("reduce", ["min", "prod", "last", "mean"])
def test_texts_and_candidates_are_reduced_over_their_steps(case, reduce) -> None:
    texts = [TEXT, "", " on", " on on", "the sea"]
    found = descant.score(case.spec(reduce), [PROMPT] * len(texts), texts)
    expected = [case.reward(PROMPT, text, reduce) for text in texts]
    assert found == pytest.approx(expected, abs=2e-4)
    models = {"base": case.base, "rm": case.spec(reduce)}
    decoder = descant.compile("base | rerank(rm, k=3)", models, device="cpu", dtype="float32")
    made = case.own(TEXT, add_special_tokens=False)["input_ids"]
    scores = decoder.scores(PROMPT, made)
    for step in range(0, len(made) + 1, 5):
        lm = plain.logprobs(case.model, [*case.own(PROMPT)["input_ids"], *made[:step]])
        for token in scores[step].isfinite().nonzero()[:, 0].tolist():
            expected = case.reward(PROMPT, case.text([*made[:step], token]), reduce)
            assert (scores[step, token] - lm[token]).item() == pytest.approx(expected, abs=5e-4)


def test_a_search_keeps_the_best_by_steps_and_rows_are_as_alone(case) -> None:
    models = {"base": case.base, "rm": case.spec("min")}
    decoder = descant.compile("base | best_of(rm, n=4)", models, device="cpu", dtype="float32")
    prompts, settings = [PROMPT, "a small stone"], {"max_new_tokens": 8, "eos_token_id": []}
    best = decoder.generate(prompts, seed=3, **settings)
    again = descant.compile("base | best_of(rm, n=1)", models, device="cpu", dtype="float32")
    for prompt, one in zip(prompts, best, strict=True):
        [single] = decoder.generate(prompt, seed=3, **settings)
        assert single.token_ids == one.token_ids
        [first] = again.generate(prompt, seed=3, **settings)
        worth = [case.reward(prompt, each.text, "min") for each in (one, first)]
        assert worth[0] >= worth[1] - 1e-4
    assert "step" in str(decoder.plan)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"steps": {"by": ""}}, "by"),
        ({"steps": {"by": ".", "reduce": "max"}}, "reduce"),
        ({"steps": {"by": ".", "keep": 1}}, "keep"),
        ({"steps": {"by": "."}, "read": "tokens"}, "leave read: tokens out"),
    ],
)
def test_specs_are_refused_by_name(spec, message) -> None:
    with pytest.raises(ModelError, match=f"the model rm: .*{message}"):
        descant.compile("base | rerank(rm)", {"base": "x", "rm": {"path": "y", **spec}})


def test_a_language_model_has_no_steps(case) -> None:
    models = {"base": {"path": case.base, "steps": {"by": "."}}}
    with pytest.raises(descant.FormulaError, match="base is a language model, and steps are a"):
        descant.compile("base", models, device="cpu")
