"""Weighted additions in brackets: one row of one forward, held against weights that are added up.

Every reference reads a text anew, alone and without a cache: weights summed by peft, plain hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import fresh
from peft import LoraConfig
from safetensors.torch import save_file
from steered import logits_of, with_weights
from torch import Tensor

import descant
from descant import FormulaError

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]
SHARES = [n / 10 for n in range(11)]


def direction(seed: int, size: float = 0.4) -> Tensor:
    return size * torch.randn(32, generator=torch.Generator().manual_seed(seed))


HONEST = {0: direction(1), 1: direction(2)}
CALM = {1: direction(3)}


@pytest.fixture
def models(zoo) -> dict[str, Any]:
    return {
        "base": {"path": zoo.path("base"), "dtype": "float32"},
        "arm": {"path": zoo.path("arm"), "dtype": "float32"},
        "lora4": zoo.adapter("lora4"),
        "lora8": zoo.adapter("lora8"),
        "honest": {"vector": HONEST, "on": "base"},
        "calm": {"vector": CALM, "on": "base", "tokens": "all"},
    }


def along(decoder: Any, rule: Callable[[Sequence[int], int, Any], Tensor], **more: Any) -> None:
    """Each row of a batch draws, greedily, what the rule says after its text; and so are scores."""
    done = decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[], **more)
    for index, (completion, prompt) in enumerate(zip(done, PROMPTS, strict=True)):
        values = {name: value[index] for name, value in more.get("params", {}).items()}
        found = decoder.scores(prompt, completion.token_ids[:-1], params=values)
        for step, token in enumerate(completion.token_ids):
            text = [*prompt, *completion.token_ids[:step]]
            expected = rule(text, len(prompt), values).log_softmax(-1)
            torch.testing.assert_close(found[step].log_softmax(-1), expected, rtol=0, atol=1e-4)
            assert token == expected.argmax()


def summed(zoo, base: str = "base") -> Callable[[Sequence[int], dict[str, float]], Tensor]:
    """The logits of a base's weights with adapters' added, each times a number."""
    known: dict[Any, Any] = {}

    def logits(text: Sequence[int], weights: dict[str, float]) -> Tensor:
        key = tuple(sorted(weights.items()))
        if key not in known:
            folders = {name if "/" in name else zoo.path(name): w for name, w in weights.items()}
            known[key] = with_weights(zoo.path(base), folders)
        return logits_of(known[key], (), text)[-1]

    return logits


def test_each_row_has_weights_of_its_own(zoo, models) -> None:
    """Rewarded soups per request; adapters of other ranks and targets."""
    logits = summed(zoo)
    decoder = descant.compile("base[a*lora4 + (1-a)*lora8]", models, params={"a": 0.5})
    assert decoder.plan.forwards == 1
    along(
        decoder,
        lambda text, start, p: logits(text, {"lora4": p["a"], "lora8": 1 - p["a"]}),
        params={"a": [0.0, 0.3, 1.0, -0.5]},
    )


def test_eleven_vectors_are_eleven_rows(models) -> None:
    decoder = descant.compile("base[a*lora4 + (1-a)*lora8]", models, params={"a": 0.5})
    options = {"max_new_tokens": 12, "temperature": 1.0, "eos_token_id": []}
    prompts, seeds = [PROMPTS[i % 4] for i in range(11)], [*range(11)]
    together = decoder.generate(prompts, params={"a": SHARES}, seed=seeds, **options)
    assert len({tuple(each.token_ids) for each in together}) > 5
    for prompt, share, seed, found in zip(prompts, SHARES, seeds, together, strict=True):
        [alone] = decoder.generate(prompt, params={"a": share}, seed=seed, **options)
        assert found.token_ids == alone.token_ids


def test_the_ends_are_the_adapters_and_the_base(models) -> None:
    def drawn(formula: str, **params: float) -> list[list[int]]:
        decoder = descant.compile(formula, models, params=params)
        options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3, "eos_token_id": []}
        return [each.token_ids for each in decoder.generate(PROMPTS, **options)]

    assert drawn("base[lora4]") == drawn("lora4") == drawn("base[a*lora4]", a=1)
    assert drawn("base[a*lora4 + b*honest]", a=0, b=0) == drawn("base") == drawn("base[0*lora4]")
    assert drawn("base[honest]") == drawn("honest") != drawn("base")


class BilinearLora:
    """PARM's PBLoRA (Lin et al., ICML 2025) on some linear layers of a model.

    ``ΔW(p) = B₁W₁A₁ + B₂(Σ pᵢW₂ᵢ)A₂``, one p per preference.
    """

    def __init__(self, model: Any, rank: int, preferences: Sequence[str]) -> None:
        generator = torch.Generator().manual_seed(5)
        self.rank, self.preferences, self.factors = rank, preferences, dict[str, Any]()
        for path, module in model.named_modules():
            if path.endswith(("q_proj", "v_proj")):
                out, size = module.weight.shape
                shapes = [(out, rank), (rank, rank), (rank, size)] * 2
                shapes += [(rank, rank)] * (len(preferences) - 1)
                parts = [torch.randn(*shape, generator=generator) * 0.2 for shape in shapes]
                self.factors[path] = parts[:3], parts[3], parts[5], [parts[4], *parts[6:]]

    def model(self, path: str, p: dict[str, float]) -> Any:
        """A checkpoint with ``W + ΔW(p)``."""
        model = fresh(path)
        modules = dict(model.named_modules())
        for name, ((b1, w1, a1), b2, a2, w2) in self.factors.items():
            mixed = sum(p[each] * w for each, w in zip(self.preferences, w2, strict=True))
            modules[name].weight.data += b1 @ w1 @ a1 + b2 @ mixed @ a2
        return model

    def save(self, folder: Path) -> dict[str, str]:
        """The k + 1 adapters that its sum is of, as peft stores them."""
        folders = {}
        for number, name in enumerate(["shared", *self.preferences]):
            tensors = {}
            for path, ((b1, w1, a1), b2, a2, w2) in self.factors.items():
                b, a = (b2, w2[number - 1] @ a2) if number else (b1, w1 @ a1)
                tensors[f"base_model.model.{path}.lora_A.weight"] = a.contiguous()
                tensors[f"base_model.model.{path}.lora_B.weight"] = b.contiguous()
            (folder / name).mkdir()
            save_file(tensors, folder / name / "adapter_model.safetensors")
            config = LoraConfig(
                r=self.rank, lora_alpha=self.rank, target_modules=["q_proj", "v_proj"]
            )
            config.save_pretrained(folder / name)
            folders[name] = str(folder / name)
        return folders


def test_parm(zoo, models, tmp_path) -> None:
    plain = BilinearLora(fresh(zoo.path("arm")), 4, ("help", "harm"))
    specs = {n: {"adapter": path, "on": "arm"} for n, path in plain.save(tmp_path).items()}
    formula = "base + arm[shared + h*help + s*harm]"
    decoder = descant.compile(formula, {**models, **specs}, params={"h": 0.5, "s": 0.5})
    assert decoder.plan.forwards == 2
    base = fresh(zoo.path("base"))

    def rule(text: Sequence[int], start: int, p: dict[str, float]) -> Tensor:
        arm = plain.model(zoo.path("arm"), {"help": p["h"], "harm": p["s"]})
        parts = [logits_of(model, (), text)[-1].log_softmax(-1) for model in (base, arm)]
        return parts[0] + parts[1]

    shares = {"h": [0.5, 0.0, 1.0, 0.2], "s": [0.5, 1.0, 0.0, 0.8]}
    along(decoder, rule, params=shares)


def test_adapters_and_vectors_add_up(zoo, models) -> None:
    """Under a prompt, and amplified: ``chat + g*(chat[2*honest] - chat)``."""
    model = with_weights(zoo.path("base"), {zoo.path("lora4"): 0.5})
    base = fresh(zoo.path("base"))

    def mixed(text: Sequence[int], start: int, p: dict[str, float]) -> Tensor:
        vectors = (HONEST, 1.5, start), (CALM, -p["c"], 0)
        return logits_of(model, model.model.layers, text, *vectors)[-1]

    formula = "base[0.5*lora4 + 1.5*honest - c*calm]"
    decoder = descant.compile(formula, models, params={"c": 1.0})
    along(decoder, mixed, params={"c": [1.0, 0.0, -2.0, 0.3]})

    def amplified(text: Sequence[int], start: int, p: dict[str, float]) -> Tensor:
        bare = logits_of(base, (), text)[-1].log_softmax(-1)
        steered = logits_of(base, base.model.layers, text, (HONEST, 2.0, start))[-1]
        return bare + p["g"] * (steered.log_softmax(-1) - bare)

    decoder = descant.compile("base + g*(base[2*honest] - base)", models, params={"g": 2.0})
    assert decoder.plan.forwards == 1
    along(decoder, amplified, params={"g": [2.0, 1.0, 0.5, -1.0]})


OPTIONS = {"max_new_tokens": 10, "temperature": 1.0, "seed": [4, 5, 6, 7], "eos_token_id": []}
PARAMS = {"a": [0.0, 0.4, 1.0, 2.0]}
ALONE = "base[a*lora4 + (1-a)*honest]"


@pytest.mark.parametrize(
    "formula",
    [
        f"where(entropy(base) > 4, {ALONE}, base + {ALONE})",
        f"(1 + js(base, {ALONE}))*base - js(base, {ALONE})*{ALONE}",
        f"base + 0.3*{ALONE}@none | top_k(20)",
        f"mix(0.5: base, 0.5: align({ALONE}))",
        f"{ALONE} | best_of(rm, n=3)",
        f"base | blockwise({ALONE} - base, beams=2, samples=2, length=3)",
        "base | rerank(rm[a*rmlora + 0.2*kind], k=4) | temperature(0.8)",
    ],
)
def test_a_batch_is_its_rows_wherever_brackets_stand(zoo, models, formula) -> None:
    models |= {
        "rm": zoo.path("rm"),
        "rmlora": {"adapter": zoo.path("lora4"), "on": "rm"},
        "kind": {"vector": HONEST, "on": "rm"},
    }
    decoder = descant.compile(formula, models, params={"a": 0.5})
    together = decoder.generate(PROMPTS, params=PARAMS, **OPTIONS)
    assert len({tuple(each.token_ids) for each in together}) > 1
    again = decoder.generate(PROMPTS, params=PARAMS, **OPTIONS)
    for index, (found, second) in enumerate(zip(together, again, strict=True)):
        options = OPTIONS | {"seed": OPTIONS["seed"][index]}
        params = {"a": PARAMS["a"][index]}
        [alone] = decoder.generate(PROMPTS[index], params=params, **options)
        assert found.token_ids == alone.token_ids == second.token_ids


@pytest.mark.parametrize("draft", ["base", "base[a*lora4]", "honest", "auto", "prompt"])
def test_drafts_change_no_token(models, draft) -> None:
    decoder = descant.compile(f"base + 0.5*{ALONE} + 0.2*arm", models, params={"a": 0.5})
    plain = decoder.generate(PROMPTS, params=PARAMS, **OPTIONS)
    drafted = decoder.generate(PROMPTS, params=PARAMS, draft=draft, draft_length=3, **OPTIONS)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in plain]


@pytest.mark.parametrize("caching", [True, False])
def test_cached_beginnings_are_those_of_the_same_weights(models, caching) -> None:
    """One long beginning under many weights, in turn and again."""
    begin = [3 + (7 * i) % 200 for i in range(80)]
    prompts = [[*begin, 5 + i] for i in range(4)]
    decoder = descant.compile(ALONE, models, params={"a": 0.5}, enable_prefix_caching=caching)
    fresh_each = []
    for prompt, share, seed in zip(prompts, PARAMS["a"], OPTIONS["seed"], strict=True):
        own = descant.compile(ALONE, models, params={"a": share}, enable_prefix_caching=False)
        fresh_each += own.generate(prompt, **OPTIONS | {"seed": seed})
    for _ in range(2):
        found = decoder.generate(prompts, params=PARAMS, **OPTIONS)
        assert [each.token_ids for each in found] == [each.token_ids for each in fresh_each]
        turned = PARAMS["a"][::-1]
        decoder.generate(prompts, params={"a": turned}, **OPTIONS)


WRONG = [
    ("lora4[lora8]", "lora4", "lora4 is an adapter itself", "write base[lora4 + lora8]"),
    ("base[2*arm]", "arm", "arm has weights of its own", "base + arm, a sum of scores"),
    ("arm + base[far]", "far", "far is on arm, not on base", "write arm[…], or declare far on"),
    ("base[lora4 + own]", "own", "own is merged: weights of its own", "leave merge: true out"),
    ("base[honest + wide]", "wide", "the vector wide does not fit its base", "was made for"),
    ("base[deep]", "deep", "the vector deep does not fit its base", "was made for"),
    ("base[2*gone]", "gone", "the adapter gone has no adapter_config.json", "save_pretrained"),
    ("t[on_table]", "on_table", "on_table is a vector on a table", ""),
]


@pytest.mark.parametrize(("formula", "marked", "problem", "cure"), WRONG, ids=lambda v: str(v))
def test_what_cannot_be_added_is_marked(zoo, models, tmp_path, formula, marked, problem, cure):
    models |= {
        "far": {"adapter": zoo.path("lora4"), "on": "arm"},
        "own": {"adapter": zoo.path("lora4"), "on": "base", "merge": True},
        "wide": {"vector": {0: torch.ones(33)}, "on": "base"},
        "deep": {"vector": {9: torch.ones(32)}, "on": "base"},
        "gone": {"adapter": str(tmp_path), "on": "base"},
        "t": descant.TableModel.random(300, seed=1),
        "on_table": {"vector": CALM, "on": "t"},
    }
    with pytest.raises(FormulaError) as caught:
        descant.compile(formula, models)
    error = caught.value
    assert problem in error.problem and cure in error.cure
    assert error.text[error.span.start : error.span.end].removeprefix("2*").startswith(marked)


def test_a_number_that_no_float_holds_is_named(models) -> None:
    decoder = descant.compile("base[a**9*lora4]", models, params={"a": 1.0})
    with pytest.raises(FormulaError, match=r"the weight of lora4 in base\[…\] is not a finite"):
        decoder.generate(PROMPTS, params={"a": [1.0, 1e200, 1.0, 1.0]})
