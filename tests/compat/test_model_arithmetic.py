"""language-model-arithmetic's classes, called as its users call them, against its own outputs."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import BOS, EOS, tokenizer
from model_arithmetic import PROMPT, chatty, made, plainly
from tokenizers import processors
from transformers import AutoModelForCausalLM, TopKLogitsWarper, TopPLogitsWarper

import descant
from descant.compat import model_arithmetic as ma
from descant.compat.model_arithmetic import (
    Classifier,
    Constant,
    Intersection,
    ModelArithmetic,
    PromptedLLM,
    SelfDebias,
    TopPTopK,
    Union,
)
from descant.compat.refused import Untranslatable

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
    assert len(M.decoder.session.bound.lanes) == 1
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


def test_what_is_not_there_is_refused_by_name(zoo, two):
    for name in ma._MISSING:
        with pytest.raises(Untranslatable, match=f"{name} is not in"):
            getattr(ma, name)
    with pytest.raises(AttributeError):
        ma.Nobody  # noqa: B018
    with pytest.raises(Untranslatable, match="logits_processor"):
        ModelArithmetic(two[0], retroactive_operators=["one"])
    with pytest.raises(Untranslatable, match="intermediate_argmax"):
        ModelArithmetic(two[0], intermediate_argmax=True)
    with pytest.raises(Untranslatable, match="lm_eval_task"):
        ModelArithmetic(two[0], lm_eval_task="arc")
    with pytest.raises(TypeError, match="only a number can be divided by"):
        two[0] / two[1]
    found = made(two[1], max_length=6)
    for name in ma._METHODS:
        with pytest.raises(Untranslatable, match=f"ModelArithmetic.{name} is not here"):
            getattr(found, name)
    with pytest.raises(Untranslatable, match="run file"):
        ModelArithmetic.from_pretrained("here")
    with pytest.raises(Untranslatable, match="scores"):
        found(torch.tensor([[1]]))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        found.nothing  # noqa: B018
    with pytest.raises(ValueError, match="N reads 8 tokens of the prompt, and max_length is 6"):
        found.generate_text(PROMPT)
    with pytest.raises(Untranslatable, match="begins with <s>"):
        found.generate_text("<s>a")
    stripped = PromptedLLM("", model=zoo.path("base"), prompt_template=lambda s, i: i.strip())
    with pytest.raises(Untranslatable, match="changes the prompt"):
        made(stripped).generate_text(" a")
