"""Which formula an operator of language-model-arithmetic is, and what has none.

The rules are worked out here from plain forwards of whole texts, one at a time; each row of a table
says what the original divides by what.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from checkpoints import BOS, reward, tokenizer
from model_arithmetic import PROMPT, chatty, made, plainly
from reference_rules.plain import logprobs
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from descant.compat.model_arithmetic import (
    Classifier,
    Constant,
    Max,
    Min,
    ModelArithmetic,
    Normalize,
    PromptedLLM,
    SelfDebias,
    Superseded,
    TopPTopK,
    Union,
)
from descant.compat.refused import Untranslatable


def normalised(scores: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    return torch.log_softmax(scores / weight, -1)


def nucleus(scores: torch.Tensor, k: int, p: float) -> torch.Tensor:
    kept = TopPLogitsWarper(p)(None, TopKLogitsWarper(k)(None, scores[None]))[0]
    return torch.log_softmax(kept, -1)


def debiased(x: torch.Tensor, y: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.log_softmax(x + strength * (x.exp() - y.exp()).clamp(max=0), -1)


# What is written, what it is in plain tensors (m and n are log-probabilities), and the formula.
RULES = [
    (lambda M, N: M - 0.6 * N, lambda m, n: normalised(m - 0.6 * n, 0.4), "mean(M - 0.6*N)"),
    (lambda M, N: 3 * (M + N), lambda m, n: normalised(3 * m + 3 * n, 6), "mean(3*M + 3*N)"),
    (lambda M, N: 0.5 * M, lambda m, n: m, "M"),
    (lambda M, N: M / 4 + N, lambda m, n: normalised(m / 4 + n, 1.25), "mean(0.25*M + N)"),
    (lambda M, N: M + 2.0, lambda m, n: normalised(m, 3), "temp(M, 3)"),
    (lambda M, N: M + np.float64(0.5) * N, lambda m, n: normalised(m + n / 2, 1.5),
     "mean(M + 0.5*N)"),
    (lambda M, N: 1 - M, lambda m, n: m * -1, "-M"),
    (lambda M, N: 2 * M - 2 * N, lambda m, n: 2 * m - 2 * n, "2*M - 2*N"),
    (lambda M, N: M + 2 * Union(M, N), lambda m, n: normalised(m + 2 * torch.maximum(m, n), 3),
     "mean(M + 2*max(M, N))"),
    (lambda M, N: Max(0.5 * M, 0.5 * N), lambda m, n: normalised(torch.maximum(m, n)),
     "temp(max(0.5*M, 0.5*N), 0.5)"),
    (lambda M, N: Min(M, 0.5 * N, include_norm=False), lambda m, n: torch.minimum(m, n / 2),
     "min(M, 0.5*N)"),
    (lambda M, N: Max(M + 1, 2 * N), lambda m, n: normalised(torch.maximum(m + 1, 2 * n), 2),
     "temp(max(M + 1, 2*N), 2)"),
    (lambda M, N: M * Max(2, 3) + N, lambda m, n: normalised(3 * m + n, 4), "mean(3*M + N)"),
    (lambda M, N: Normalize(M + N) - 0.5 * M,
     lambda m, n: normalised(normalised(m + n, 2) - m / 2, 0.5), "mean(mean(M + N) - 0.5*M)"),
    (lambda M, N: Max(TopPTopK(M, top_k=5), N),
     lambda m, n: normalised(torch.maximum(nucleus(m, 5, 1.0).clamp(min=-1e8), n)),
     "max(temp(top_k(M, 5), 1), N)"),
    (lambda M, N: TopPTopK(M + N, top_p=0.8, top_k=9, temperature=0.7) + M,
     lambda m, n: normalised(2 * nucleus(normalised(m + n, 2) / 0.7, 9, 0.8) + m, 3),
     "mean(2*top_p(top_k(temp(mean(M + N), 0.7), 9), 0.8) + M)"),
    (lambda M, N: SelfDebias(2 * M, N, 10), lambda m, n: debiased(2 * m, n, 10),
     "debias(2*M, N, 10)"),
    (lambda M, N: Superseded(M, N) + 0.5 * M, lambda m, n: normalised(n + m / 2, 1.5),
     "mean(N + 0.5*M)"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "rule", "expected"), RULES, ids=[rule[2] for rule in RULES])
def test_rules(zoo, two, write, rule, expected):
    base, arm = (AutoModelForCausalLM.from_pretrained(zoo.path(n)) for n in ("base", "arm"))
    M = made(write(*two))
    assert (
        str(M).replace('M@"Be brief."', "M")
        == expected
        == str(write(*two)).replace('M@"Be brief."', "M")
    )
    made_so_far = [77, 140]
    read = [
        [BOS, *tokenizer()(text, add_special_tokens=False)["input_ids"], *made_so_far]
        for text in (chatty("Be brief.", PROMPT), PROMPT)
    ]
    scores = rule(logprobs(base, read[0]), logprobs(arm, read[1]))
    found = M.decoder.scores(PROMPT, made_so_far)[-1]
    kept = scores > -1e7
    assert torch.equal(found > -torch.inf, kept)
    torch.testing.assert_close(
        torch.log_softmax(found[kept], -1), torch.log_softmax(scores[kept], -1), atol=2e-4, rtol=0
    )


def test_a_negative_sum_of_weights_turns_the_signs_and_says_so(zoo, two):
    M, N = two
    with pytest.warns(UserWarning, match="add up to -0.5"):
        found = made(0.5 * M - N)
    assert found.formula == 'temp(-0.5*M@"Be brief." + N, 0.5)'


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "classes"
    config = reward().config
    config.num_labels = 2
    torch.manual_seed(3)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def judged(folder: str, text: str, label: int) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(**tokenizer()(text, return_tensors="pt")).logits[0]
    return torch.log_softmax(logits, -1)[label].item()


@pytest.mark.parametrize(("minimize", "bayes", "weight"), [(False, True, 2), (True, False, 3)])
def test_classifiers(zoo, two, classifier, minimize, bayes, weight):
    """On the best tokens of the sum; without Bayes' rule it has a weight of its own."""
    M, N = two
    C = Classifier(
        M + N, classifier, 4, prompt_template=lambda e, f: "", minimize=minimize, use_bayes=bayes
    )
    found = made(M + N + C)
    label = 1 - minimize
    assert found.models["classes"]["label"] == label
    so_far = [77, 140]
    scores = found.decoder.scores(PROMPT, so_far)[-1]
    base, arm = (AutoModelForCausalLM.from_pretrained(zoo.path(n)) for n in ("base", "arm"))
    read = [
        [BOS, *tokenizer()(text, add_special_tokens=False)["input_ids"], *so_far]
        for text in (chatty("Be brief.", PROMPT), PROMPT)
    ]
    expected = logprobs(base, read[0]) + logprobs(arm, read[1])
    before = judged(classifier, tokenizer().decode(so_far), label)
    for token in torch.topk(expected, 4).indices.tolist():
        after = judged(classifier, tokenizer().decode([*so_far, token]), label)
        expected[token] += after - before
    expected = torch.log_softmax(expected / weight, -1)
    torch.testing.assert_close(torch.log_softmax(scores, -1), expected, atol=2e-4, rtol=0)


M, N = PromptedLLM("", model="org/M"), PromptedLLM("", model="org/N")
C = Classifier(M, "org/C", n_runs_per_sample=5)


@pytest.mark.parametrize(
    ("formula", "problem", "cure"),
    [
        (Max(M, 0.5 * N), "each token by the weight of the part that wins", r"max\(M, 0.5\*N\)"),
        (M * N, "two models are multiplied", r"write \+"),
        (Max(M, 1), "max of a number and scores", "takes scores alone"),
        (M + N + C, r"picks its candidates by M, and is added to M \+ N", "give the Classifier"),
        (Max(M + C, N), "a Classifier inside Max", "add it to the whole formula"),
        (TopPTopK(M + C, top_k=3), "a Classifier inside TopPTopK", "add it to the whole formula"),
        (M + C + Classifier(M, "org/D", 9), "n_runs_per_sample of 5, 9", "give them one number"),
        (Superseded(2 * M, N), "different weights", "write N"),
        (TopPTopK(M - N, top_k=3), "add up to 0", r"top_k\(M - N, 3\)"),
        (Constant(3), "no language model", "add one"),
        (M + PromptedLLM("x", model="org/N", prompt_template=lambda s, i: s), "leaves the input",
         "let it use input_string"),
        (M + PromptedLLM("", model="org/N", prompt_template=lambda s, i: "{{" + i), "braces",
         "cannot hold"),
    ],
)  # fmt: skip
def test_what_has_no_formula_is_refused(formula, problem, cure):
    with pytest.raises(Untranslatable, match=problem) as caught:
        ModelArithmetic(formula)
    assert re.search(cure, caught.value.cure)
    assert re.search(problem, str(formula))


def test_names(zoo):
    """As the last part of a path says, apart where templates are, and words that a formula has."""
    odd = [PromptedLLM("", model=f"org/{name}") for name in ("tulu-2-7b", "7b", "max", "tulu-2-7b")]
    formula = odd[0] + odd[1] + odd[2] + odd[3]
    assert str(formula) == "mean(tulu_2_7b + m_7b + m_max + tulu_2_7b)"
    other = PromptedLLM("", model="org/tulu-2-7b", prompt_template=plainly)
    assert str(odd[0] - other) == "tulu_2_7b - tulu_2_7b_2"
    child, adult, magic = (
        PromptedLLM(f"You are {said}.", prompt_template=chatty)
        for said in ("a child", "an adult", "magic")
    )
    formula = child - 0.6 * adult + 2 * Union(child, magic)
    guided = formula + 0.5 * Classifier(formula, "org/formal", 50, prompt_template=lambda e, f: "")
    assert str(guided) == (
        'mean(base@"You are a child." - 0.6*base@"You are an adult." + '
        '2*max(base@"You are a child.", base@"You are magic.")) '
        "| rerank(formal@none, k=50, w=5/24, norm=prefix, keep=all)"
    )
