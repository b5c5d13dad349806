"""Conformance: what a lane's rows say is what transformers' own uncached forward says alone.

Run this file with DESCANT_GOLDEN=write to write the table of docs/models.md.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_architectures as families
import torch
import transformers
from lane_rows import admitted
from packaging.version import Version
from tiny_architectures import ALIBI, FAMILIES, PAD, STATES, V, config, model_type
from torch import Tensor
from transformers import CONFIG_MAPPING

import descant
from descant.models.cache import masks
from descant.models.cache.layers.states import layer_kinds
from descant.models.checkpoint.architectures import REWARDS, TERMS, check_architecture, model_class
from descant.models.lanes.recurrent.lane import token_lane
from descant.models.lanes.transformers_lane import TransformersLane

lane_file = importlib.import_module("descant.models.lanes.prefill")
window_file = importlib.import_module("descant.models.cache.window")
LENGTHS = (21, 5, 1, 13)  # the first is longer than any window here, and than a chunk of prefill
STEPS, CAPACITY = 4, 64
EXACT, WRONG = 1e-5, 1e-3
OLD = Version(transformers.__version__) < Version("5.23")
here = [family for family in FAMILIES if model_type(family) in CONFIG_MAPPING]
with_states = [family for family in STATES if family in CONFIG_MAPPING]
classified = [one for one in here + with_states if model_class(config(one), True) is not None]
judges = [
    one for one in classified if model_type(one) in REWARDS and families.row_of(one)[1] != ALIBI
]
every = pytest.mark.parametrize("family", here)


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, V, shape, generator=torch.Generator().manual_seed(seed))


def texts() -> list[list[int]]:
    return [tokens(n, seed=n).tolist() for n in LENGTHS]


def rows_of(lane: TransformersLane, prompts: Sequence[Sequence[int]]) -> list[int]:
    lane.reserve(len(prompts), CAPACITY)
    return admitted(lane, prompts)


@torch.no_grad()
def alone(model: Any, ids: Sequence[int]) -> Tensor:
    """transformers' own forward over one text, without a cache: what it says at the end."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits.reshape(-1, V)[-1].float()


@torch.no_grad()
def reward_alone(model: Any, ids: Sequence[int]) -> Tensor:
    assert ids[-1] != PAD
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def off(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, over the largest of what is expected."""
    one, other = torch.stack(list(found)), torch.stack(list(expected))
    return ((one - other).abs().max() / other.abs().max()).item()


def said_by_rows(model: Any, steps: int = STEPS) -> tuple[float, TransformersLane]:
    """How far rows of different lengths are from each text alone, over several steps."""
    lane, more, found, expected = (
        TransformersLane(model, V, reads_all=False),
        tokens(4, steps),
        [],
        [],
    )
    rows, read = rows_of(lane, texts()), texts()
    for step in range(steps):
        logits = lane.logits()
        for text, row, token in zip(read, rows, more[:, step].tolist(), strict=True):
            found.append(logits[row])
            expected.append(alone(model, text))
            text.append(token)
        lane.feed(more[torch.tensor(rows).argsort(), step])
    return off(found, expected), lane


def judged_by_rows(model: Any, reads_all: bool) -> float:
    """How far the rewards of candidates over a shared prefix are from those of whole texts."""
    lane, found, expected = token_lane(model, V, reads_all), [], []
    rows, read = rows_of(lane, texts()), texts()
    for step in range(2):
        candidates = tokens(4, 6, seed=step)
        rewards, before = lane.rewards(candidates[torch.tensor(rows).argsort()])
        for i, (text, row) in enumerate(zip(read, rows, strict=True)):
            found += [*rewards[row], *([] if before is None else [before[row]])]
            expected += [reward_alone(model, [*text, one]) for one in candidates[i].tolist()]
            expected += [] if before is None else [reward_alone(model, text)]
            text.append(int(candidates[i, 2 + step]))
        chosen = torch.full((4,), 2 + step)
        fed = candidates[torch.tensor(rows).argsort(), 2 + step]
        lane.keep(chosen, fed) if reads_all else lane.feed(fed)
    return off(found, expected)


@every
@pytest.mark.parametrize("apart", [False, True], ids=["together", "in runs"])
def test_rows_say_what_the_model_says_alone(family, apart, monkeypatch) -> None:
    monkeypatch.setattr(lane_file, "CHUNK", 24)  # 6 tokens of every row at a time
    monkeypatch.setattr(window_file, "RUN", 0 if apart else 1 << 30)
    difference, lane = said_by_rows(families.model(family))
    assert difference < EXACT
    reserved = sum(tensor.nbytes for tensor in lane.blocks.cache._tensors())
    assert lane.footprint().token_bytes * len(LENGTHS) * CAPACITY == reserved
    assert 0 < lane.footprint().cache_bytes <= reserved


def seeing(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A mask that is wrong: of the right one, and the positions of queries and keys."""
    right = masks.visible

    def wrong(rule: Any, queries: Tensor, window: Any) -> Tensor:
        keys = torch.arange(window.limit)[None, None, None]
        return change(right(rule, queries, window), queries[:, None, :, None], keys)

    return wrong


@pytest.mark.parametrize("family", ["doge", "minimax_m3_vl_text"])
def test_attention_that_chooses_its_keys_is_refused(family) -> None:
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    with pytest.raises(descant.ModelError, match=rf"m is a {family}, whose (attention|layers) "):
        check_architecture("m", CONFIG_MAPPING[family](), False)


@every
def test_a_wrong_mask_is_found(family, monkeypatch) -> None:
    model, right = families.model(family), masks.visible
    hides_one = seeing(lambda seen, at, keys: seen & ((keys != at - 2) | (at < 2)))
    monkeypatch.setattr(masks, "visible", hides_one)
    assert said_by_rows(model, 1)[0] > WRONG
    if {"sliding", "chunked"} & {*attention(family).split()}:
        monkeypatch.setattr(masks, "visible", right)
        sees_all = seeing(lambda seen, at, keys: seen | (keys < at))
        monkeypatch.setattr(masks, "visible", sees_all)
        assert said_by_rows(model, 1)[0] > WRONG


@every
def test_in_a_sum(family) -> None:
    base, arm = families.model(family), families.model(family, seed=1)
    decoder = descant.compile("base + 0.5*arm", models={"base": base, "arm": arm})
    settings = {"max_new_tokens": 3, "eos_token_id": []}
    for text, made in zip(texts()[1:], decoder.generate(texts()[1:], **settings), strict=True):
        expected = []
        for _ in range(3):
            ids = [*text, *made.token_ids[: len(expected)]]
            voices = [torch.log_softmax(alone(model, ids), -1) for model in (base, arm)]
            expected.append(voices[0] + 0.5 * voices[1])
        assert made.token_ids == [int(row.argmax()) for row in expected]
        scores = decoder.scores(text, made.token_ids[:-1])
        assert off(list(scores), expected) < EXACT


@pytest.mark.parametrize("reads_all", [True, False], ids=["moved", "read again"])
@pytest.mark.parametrize("family", judges)
def test_candidates_over_a_shared_prefix(family, reads_all) -> None:
    assert judged_by_rows(families.model(family, reward=True), reads_all) < EXACT


def test_candidates_that_see_each_other_are_found(monkeypatch) -> None:
    model = families.model("llama", reward=True)
    neighbours = seeing(lambda seen, at, keys: seen | (keys == at))
    monkeypatch.setattr(masks, "visible", neighbours)
    assert judged_by_rows(model, reads_all=True) > WRONG


def test_the_code_names_the_families_that_are_here() -> None:
    assert {model_type(family) for family in (*FAMILIES, *STATES)} == TERMS
    assert {model_type(family) for family in judges} == REWARDS & {
        model_type(one) for one in here + with_states
    }


LAYERS = {  # by whether layers have states, and keys
    frozenset({(1, False)}): "none: states",
    frozenset({(1, False), (0, True)}): "full, and states",
    frozenset({(1, True)}): "full with states",
    frozenset({(1, False), (1, True)}): "full with states, and states",
}


def attention(family: str) -> str:
    """The kinds of attention layer that a family's member has."""
    made = config(family)
    kinds = set(getattr(made, "layer_types", None) or ())
    if not kinds:
        kinds = {"sliding" if getattr(made, "sliding_window", None) else "full"}
    if family in STATES:
        return LAYERS[frozenset(kind[:2] for kind in layer_kinds(made))]
    return " and ".join(sorted(kind.removesuffix("_attention") for kind in kinds))


REFUSED = {
    "in a way of its own": "rwkv xlstm",
    "more than keys, values and states": "deepseek_v4",
    "goes by the length of the cache": "inkling_text inkling2_text",
    "blocks of keys of one length": "qwen4_exp_text",
    "chooses keys by their scores": "doge minimax_m3_vl_text",
    "encoder-decoder": "t5 bart mbart pegasus whisper",
    "reads both ways": "bert roberta electra camembert",
    "its prompt both ways": "paligemma",
}
refusals = [(kind, why) for why, kinds in REFUSED.items() for kind in kinds.split()]


def refusal(kind: str, folder: Path, **options: Any) -> str:
    """What is said of a checkpoint that is a configuration alone: its weights are never read."""
    made = CONFIG_MAPPING[kind](**options)
    made.architectures = ["SomeForCausalLM"]
    made.save_pretrained(folder)
    with pytest.raises(descant.FormulaError) as caught:
        descant.compile("base", models={"base": str(folder)})
    return caught.value.problem


@pytest.mark.parametrize(("kind", "why"), refusals)
def test_what_cannot_work_is_refused_before_weights_are_read(kind, why, tmp_path) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    said = refusal(kind, tmp_path)
    assert why in said and "base" in said and kind in said


def test_a_causal_family_that_is_set_to_read_both_ways(tmp_path) -> None:
    said = refusal("gemma3_text", tmp_path, use_bidirectional_attention=True)
    assert "reads both ways" in said


FAILING = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8, "num_layers": 2},
    "openai-gpt": {},
    "xlm": {"emb_dim": 32, "n_heads": 4, "n_layers": 2},
    "bart": {"is_encoder_decoder": False, "is_decoder": True, "d_model": 32, "decoder_layers": 2,
             "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
}  # fmt: skip


def untested(kind: str, reward: bool = False, **options: Any) -> Any:
    auto = families.AutoModelForSequenceClassification if reward else families.AutoModelForCausalLM
    sizes = {name: size for name, size in families.SIZES.items() if kind != "gpt_neo" or size != 2}
    made = CONFIG_MAPPING[kind](**{**sizes, **options})
    made.num_labels = 1 if reward else 2
    return families.shaken(auto.from_config(made, dtype=torch.float32), 0)


@pytest.mark.parametrize("kind", FAILING)
def test_what_goes_wrong_at_work_is_refused_when_it_is_loaded(kind) -> None:
    with pytest.raises(descant.FormulaError) as caught:
        descant.compile("base", models={"base": untested(kind, **FAILING[kind])})
    assert f"base ({kind}) is of a family that is not among the tested" in caught.value.problem


def test_a_family_that_is_not_tested_is_tried_and_the_plan_says_so(monkeypatch) -> None:
    probe = importlib.import_module("descant.models.loading.self_check")
    monkeypatch.setattr(probe, "TERMS", frozenset())
    notes = descant.compile("base", models={"base": families.model("llama")}).plan.notes
    assert "base: llama is not among the tested families; a trial on a few tokens agreed" in notes


REWARD = "base | rerank(rm, k=3, w=1)"


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon (ALiBi)"])
def test_candidates_have_no_places_of_their_own_under_alibi(family) -> None:
    """ALiBi goes by the slot of a key: as terms these work, as rewards they read whole texts."""
    models = {"base": descant.TableModel.random(V, seed=1), "rm": families.model(family, 0, True)}
    with pytest.raises(descant.FormulaError, match="computes positions by itself") as caught:
        descant.compile(REWARD, models=models)
    assert "tokenizer" in caught.value.cure


def test_a_reward_that_is_not_tested_is_tried(monkeypatch) -> None:
    probe = importlib.import_module("descant.models.loading.self_check")
    monkeypatch.setattr(probe, "REWARDS", frozenset())
    models = {"base": descant.TableModel.random(V, seed=1), "rm": families.model("falcon", 0, True)}
    assert "rm: falcon is not among" in str(descant.compile(REWARD, models=models).plan.notes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3 (mixed)", "gemma2", "cohere2", "bloom"])
def test_half_precision(family, dtype) -> None:
    """A lane rounds as transformers does, and what comes after it is float32."""
    base, arm = (families.model(family, seed, dtype=dtype) for seed in (0, 1))
    assert said_by_rows(base)[0] < 4 * torch.finfo(dtype).eps
    text, made, models = texts()[0], [5, 6], {"base": base, "arm": arm}
    one, other, both = (
        descant.compile(formula, models=models).scores(text, made)
        for formula in ("base", "arm", "base + 0.5*arm")
    )
    assert both.dtype == torch.float32
    torch.testing.assert_close(both, one + 0.5 * other, atol=1e-5, rtol=1e-6)
    assert (both != both.to(dtype).float()).float().mean() > 0.9


FILE = Path(__file__).parents[3] / "docs/models.md"


def supported() -> str:
    """The table of what is tested, from what the tests run over."""
    lines = [
        "| family | class | attention | term | candidates | notes |",
        "|---|---|---|---|---|---|",
    ]
    for family in sorted(here + with_states):
        cls = model_class(config(family), False).__name__
        able = "yes" if model_type(family) in REWARDS and family in judges else ""
        note = families.row_of(family)[1]
        judging = able or ("text" if family in judges and "ALiBi" in note else "")
        lines.append(
            f"| {family} | {cls} | {attention(family)} | yes | {judging or '-'} | {note} |"
        )
    return "\n".join(lines)


def refused(root: Path) -> str:
    """The table of what is refused, in the words of the error."""
    lines = ["| family | reason |", "|---|---|"]
    for kind, _ in refusals:
        said = refusal(kind, root / kind)
        lines.append(f"| {kind} | {said.removeprefix('base ')} |")
    return "\n".join(lines)


@pytest.mark.skipif(OLD, reason="transformers of old gives some layers other names")
def test_the_document_says_what_is_tested(tmp_path) -> None:
    text = FILE.read_text(encoding="utf-8")
    tables = {"## Families that are tested": supported(), "## Refused": refused(tmp_path)}
    if os.environ.get("DESCANT_GOLDEN") == "write":
        for title, table in tables.items():
            text = re.sub(rf"({title}\n.*?\n)\n\|.*?(\n\n|\Z)", rf"\1\n{table}\2", text, flags=re.S)
        text = text.rstrip() + "\n"
        FILE.write_text(text, encoding="utf-8")
    assert all(f"\n\n{table}\n" in text for table in tables.values())
