"""language-model-arithmetic's classes, called as its users call them: its outputs, and its rules.

The rules are worked out here from plain forwards of whole texts, one at a time; each row of a table
says what the original divides by what.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import BOS, EOS, reward, tokenizer
from reference_rules.plain import logprobs
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import descant
from descant.compat import model_arithmetic as ma
from descant.compat.model_arithmetic import (
    Classifier,
    Constant,
    Intersection,
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


def plainly(system_prompt: str, input_string: str) -> str:
    return input_string


def chatty(system_prompt: str, input_string: str) -> str:
    return f"[{system_prompt}] {input_string} >"


CASES = {
    "ma_base": lambda m, c: m["base"],
    "ma_gpt2": lambda m, c: m["gpt2"],
    "ma_proxy": lambda m, c: m["strong"] + (m["arm1"] - m["base"]),
    "ma_base_p_1.0xarm1": lambda m, c: m["base"] + 1.0 * m["arm1"],
    "ma_base_p_0.5xarm1_p_0.5xarm2": lambda m, c: m["base"] + 0.5 * m["arm1"] + 0.5 * m["arm2"],
    "ma_base_m_0.6xarm1": lambda m, c: m["base"] - 0.6 * m["arm1"],
    "ma_union": lambda m, c: Union(m["base"], m["arm1"]),
    "ma_intersection": lambda m, c: Intersection(m["base"], m["arm1"]),
    "ma_selfdebias": lambda m, c: SelfDebias(m["base"], m["arm1"], lambda_=50),
    "ma_topk10_p_arm1": lambda m, c: TopPTopK(m["base"], top_k=10) + m["arm1"],
    "ma_classifier": lambda m, c: m["base"] + Classifier(m["base"], c, n_runs_per_sample=10),
}


class Terms(dict[str, PromptedLLM]):
    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def __missing__(self, name: str) -> PromptedLLM:
        return PromptedLLM("", model=str(self.folder / name), prompt_template=plainly)


def case(reference: Any, name: str) -> dict[str, Any]:
    return json.loads((reference / "cases" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_texts_of_its_own_code(reference, name):
    said = case(reference, name)
    formula = CASES[name](Terms(reference / "models"), str(reference / "models" / "clf2"))
    M = ModelArithmetic(formula, dtype=torch.float32)
    prompts = [one["text"] for one in said["prompts"].values()]
    ids = [one["generated"] for one in said["prompts"].values()]
    found = M.generate_text(prompts, max_new_tokens=48, temperature=0, top_p=1, top_k=0)
    assert found == [M.tokenizer.decode([EOS, *one]).removeprefix("</s>") for one in ids]
    assert any(text.endswith("</s>") for text in found) == any(EOS in one for one in ids)
    again = M.decoder.generate(prompts, max_new_tokens=48, eos_token_id=EOS)
    assert [one.token_ids for one in again] == ids
    for prompt, expected in np.load(reference / "cases" / f"{name}.npz").items():
        scores = M.decoder.scores(said["prompts"][prompt]["text"], [])
        kept = torch.from_numpy(expected[0]) > -1e7
        theirs = torch.log_softmax(torch.from_numpy(expected[0])[kept], -1)
        assert (torch.log_softmax(scores[0][kept], -1) - theirs).abs().max() < 1e-4


def test_the_comparison_can_fail(reference):
    m = Terms(reference / "models")
    said = case(reference, "ma_base_p_1.0xarm1")["prompts"].values()
    M = ModelArithmetic(m["base"] + 0.5 * m["arm1"], dtype="float32")
    found = M.generate_text([one["text"] for one in said], max_new_tokens=48, temperature=0)
    assert found != [M.tokenizer.decode([EOS, *one["generated"]])[4:] for one in said]


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


@pytest.fixture(scope="module")
def two(zoo):
    """``base`` in a template under a system prompt, and ``arm`` on the prompt as it is."""
    return (
        PromptedLLM("Be brief.", model=zoo.path("base"), prompt_template=chatty, model_name="M"),
        PromptedLLM("Not used", model=zoo.path("arm"), prompt_template=plainly, model_name="N"),
    )


def made(formula: Any, **more: Any) -> ModelArithmetic:
    return ModelArithmetic(formula, dtype=torch.float32, **more)


PROMPT = "a small stone"


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


def test_prompts_are_read_as_there(zoo, two):
    """A BOS before every text: where the template wrote one, and where the tokenizer adds none."""
    bare = copy.deepcopy(tokenizer())
    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    assert bare("x")["input_ids"][0] != BOS

    def written(system_prompt: str, input_string: str) -> str:
        return f"<s>[INST]<<SYS>>\n{system_prompt}\n<</SYS>>\n\n{input_string} [/INST]"

    long = 'He said: "this is\na long prompt".'
    for one in (tokenizer(), bare):
        kinds = {"written": written, "chatty": chatty, "plainly": plainly}
        asked = {
            f"{name}{number}": PromptedLLM(
                system, model=zoo.path("base"), prompt_template=template, tokenizer=one,
                model_name=f"{name}{number}",
            )
            for name, template in kinds.items()
            for number, system in enumerate(("You are a child.", "", long))
        }  # fmt: skip
        M = made(sum(asked.values(), start=Constant(0)))
        for found in M.decoder.rendered(PROMPT):
            term = next(t for n, t in asked.items() if n == found.term.partition("@")[0])
            texts = {
                term.prompt_template(system, PROMPT) for system in ("You are a child.", "", long)
            }
            ids = [token.id for token in found.tokens]
            assert ids in [[BOS, *bare(t, add_special_tokens=False)["input_ids"]] for t in texts]
        assert len({tuple(t.id for t in f.tokens) for f in M.decoder.rendered(PROMPT)}) == 7


def test_weights_are_read_once(zoo):
    """Prompts of one model, and adapters on it, are rows of one lane."""
    asked = [PromptedLLM(said, prompt_template=chatty) for said in ("Be brief.", "Be kind.")]
    lora = zoo.adapter("lora4")["adapter"]
    config = json.loads((zoo.root / "lora4" / "adapter_config.json").read_text())
    arm = PromptedLLM("", model=lora, prompt_template=plainly)
    M = made(asked[0] - 0.5 * asked[1] + arm, default_model=config["base_model_name_or_path"])
    assert M.formula == 'mean(base@"Be brief." - 0.5*base@"Be kind." + lora4)'
    assert len(M.decoder._bound.lanes) == 1
    alone = made(arm)
    assert (alone.formula, alone.models["lora4"]["on"]) == ("lora4", "base")
    expected = descant.compile("lora4", {"base": zoo.path("base"), "lora4": zoo.adapter("lora4")})
    [text] = alone.generate_text(PROMPT, max_new_tokens=9, temperature=0)
    assert text.removesuffix("</s>") == expected.generate(PROMPT, max_new_tokens=9)[0].text


def test_models_in_memory_and_specs(zoo, two):
    model = AutoModelForCausalLM.from_pretrained(zoo.path("base"))
    spec = {"path": zoo.path("base"), "dtype": "float32", "device": "cpu"}
    texts = [
        made(PromptedLLM("", model=source, prompt_template=plainly)).generate_text(
            PROMPT, max_new_tokens=8, temperature=0
        )
        for source in (model, spec, zoo.path("base"))
    ]
    assert texts[0] == texts[1] == texts[2]


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


def test_draws(zoo, two):
    """A division and a temperature that undoes it; top-k and top-p at the temperature asked for."""
    M, N = two
    found = made(M + N)
    torch.manual_seed(7)
    texts = found.generate_text([PROMPT] * 3, max_new_tokens=6, temperature=1 / (1 + 1))
    torch.manual_seed(7)
    seeds = torch.randint(2**62, (3,)).tolist()
    plain = descant.compile('M@"Be brief." + N', found.models)
    again = plain.generate([PROMPT] * 3, max_new_tokens=6, temperature=1.0, seed=seeds)
    assert texts == [found._text(one.token_ids) for one in again]
    assert len(set(texts)) > 1
    scores = found.decoder.scores(PROMPT, [])[0] / 2.5
    for k, p in ((3, 1.0), (0, 0.6), (5, 0.7)):
        kept = TopKLogitsWarper(k)(None, scores[None]) if k else scores[None]
        kept = TopPLogitsWarper(p)(None, kept)[0].isfinite().nonzero()[:, 0].tolist()
        first = found.generate_text(
            PROMPT, max_new_tokens=1, temperature=2.5, top_k=k, top_p=p, num_return_sequences=60
        )
        assert 1 < len(set(first)) <= len(kept)
        assert set(first) <= {found._text([token]) for token in kept}


def test_ends(reference):
    """Stop strings stay, special ones too, and so does the end of a text."""
    M = ModelArithmetic(Terms(reference / "models")["base"], dtype="float32")
    [text] = M.generate_text("This License", max_new_tokens=40, temperature=0)
    stop = text.split()[3]
    [cut] = M.generate_text("This License", max_new_tokens=40, temperature=0, stop_texts=[stop])
    assert text.startswith(cut) and stop in cut and stop not in cut[: -len(stop)]
    pair = M.generate_text(["This License", "The"], max_new_tokens=5, num_return_sequences=2)
    assert len(pair) == 4
    [same] = M.generate_text("This License", max_new_tokens=40, temperature=0, stop_texts=["</s>"])
    assert same == text
    with pytest.warns(UserWarning, match="ignores max_length"):
        M.generate_text("This License", max_new_tokens=1, max_length=128)


def test_calls_of_the_scripts_of_genarm(reference):
    """The calls of its three evaluation scripts; its rule is base + alpha*arm at temperature 1."""
    folder, alpha = reference / "models", 0.5
    own = descant.compile(
        "base + 0.5*arm", {"base": str(folder / "base"), "arm": str(folder / "arm1")}
    ).tokenizer
    template = lambda system_prompt, input_string: f"<|user|>\n{input_string}\n<|assistant|>\n"  # noqa: E731
    parts = [
        PromptedLLM(
            system_prompt="Not used for tulu", prompt_template=template, model=str(folder / name),
            tokenizer=own,
        )
        for name in ("base", "arm1")
    ]  # fmt: skip
    formula = parts[0] + alpha * parts[1]
    M = ModelArithmetic(
        formula, needs_input_tokens_lm_eval=False, lm_eval_task=None, dtype=torch.float32,
        max_length=512,
    )  # fmt: skip
    M.eval()
    torch.manual_seed(1)
    response = M.generate_text(
        "This License", max_new_tokens=12, batch_size=None, temperature=1 / (1 + alpha), top_p=1,
        top_k=0, do_speculation=False,
    )[0].removesuffix(M.tokenizer.eos_token)  # fmt: skip
    torch.manual_seed(1)
    seed = torch.randint(2**62, (1,)).item()
    text = template("", "This License")
    spec = {"dtype": "float32"}
    ours = descant.compile(
        "base + 0.5*arm",
        {
            "base": {"path": str(folder / "base"), **spec},
            "arm": {"path": str(folder / "arm1"), **spec},
        },
    )
    assert response == ours.generate(text, max_new_tokens=12, temperature=1.0, seed=seed)[0].text
    assert ModelArithmetic(1 * parts[0], dtype="float32").formula == "base"


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
         "no place"),
    ],
)  # fmt: skip
def test_what_has_no_formula_is_refused(formula, problem, cure):
    with pytest.raises(Untranslatable, match=problem) as caught:
        ModelArithmetic(formula)
    assert re.search(cure, caught.value.cure)
    assert re.search(problem, str(formula))


def test_what_is_not_there_is_refused_by_name(zoo, two):
    for name in ma._MISSING:
        with pytest.raises(Untranslatable, match=f"{name} is not in"):
            getattr(ma, name)
    with pytest.raises(AttributeError):
        ma.Nobody  # noqa: B018
    with pytest.raises(Untranslatable, match="logits_processor"):
        ModelArithmetic(M, retroactive_operators=["one"])
    with pytest.raises(Untranslatable, match="intermediate_argmax"):
        ModelArithmetic(M, intermediate_argmax=True)
    with pytest.raises(Untranslatable, match="lm_eval_task"):
        ModelArithmetic(M, lm_eval_task="arc")
    with pytest.raises(TypeError, match="only a number can be divided by"):
        M / N
    found = made(two[1], max_length=6)
    with pytest.raises(Untranslatable, match="run file"):
        found.save_pretrained("here")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        found.nothing  # noqa: B018
    with pytest.raises(ValueError, match="N reads 8 tokens of the prompt, and max_length is 6"):
        found.generate_text(PROMPT)
    with pytest.raises(Untranslatable, match="begins with <s>"):
        found.generate_text("<s>a")
    stripped = PromptedLLM("", model=zoo.path("base"), prompt_template=lambda s, i: i.strip())
    with pytest.raises(Untranslatable, match="changes the prompt"):
        made(stripped).generate_text(" a")


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
