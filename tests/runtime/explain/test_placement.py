"""What goes where on GPUs that are not here, against sums worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from descant.demo import models as demo_models
from descant.errors import ArgumentError
from descant.runtime import Report
from descant.runtime.explain.gpus import GIB, parse_devices
from descant.runtime.explain.placement import LATENCY
from descant.show.explain import ExplainRequest, PlanArguments, Target, explained, target

HIDDEN, INNER, LAYERS, HEADS, GROUPS, ROWS = 512, 1024, 6, 8, 4, 4096
SIZE = HIDDEN // HEADS
ATTENTION = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * GROUPS * SIZE  # q and o, k and v
SPLIT = 2 * (LAYERS * (ATTENTION + 3 * HIDDEN * INNER) + 2 * ROWS * HIDDEN)  # with both embeddings
NORMS = 2 * (2 * LAYERS + 1) * HIDDEN
TOKEN = 2 * 2 * LAYERS * GROUPS * SIZE  # bytes of keys and values


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Configurations and a tokenizer, and no weights."""
    root = tmp_path_factory.mktemp("configurations")
    tokenizer = AutoTokenizer.from_pretrained(demo_models()["base"]["path"])
    for name in ("large", "one", "two"):
        config = LlamaConfig(
            hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=GROUPS, vocab_size=ROWS,
            dtype="bfloat16", bos_token_id=1, eos_token_id=2, architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        config.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def written(folder: Path, models: dict[str, Any], parallel: str = "") -> str:
    """A run file of the three models."""
    lines = [f"  {name}: {{path: {folder / name}{more}}}" for name, more in models.items()]
    text = "\n".join(["formula: large + 0.5*(one - two)", parallel, "models:", *lines])
    (folder / "run.yaml").write_text(text)
    return str(folder / "run.yaml")


def report(path: str, on: Target | None) -> Report:
    [plan] = ExplainRequest(path).arguments().values()
    return plan.report(on)


def loads(path: str, devices: str, **more: int) -> Any:
    return report(path, Target(parse_devices(devices), **more))._placement


def test_one_gpu_holds_all(folder) -> None:
    path = written(folder, {"large": "", "one": "", "two": ""})
    placement = loads(path, "H100", batch_size=3, context=100)
    [load] = placement.loads
    assert (load.weights, load.caches) == (3 * (SPLIT + NORMS), 3 * 3 * 100 * TOKEN)
    read = 3 * (SPLIT + NORMS - 2 * ROWS * HIDDEN)  # a step looks the first embedding up
    assert load.reads == read + load.caches
    assert placement.seconds == pytest.approx(load.reads / 3.35e12)


def test_processes_hold_their_part_of_a_split_model_and_models_of_their_own(folder) -> None:
    path = written(folder, {"large": ", tp_plan: auto", "one": "", "two": ""}, "parallel: terms")
    placement = loads(path, "4xH200", batch_size=2, context=64)
    part = SPLIT / 4 + NORMS
    sizes = [SPLIT + NORMS + part, SPLIT + NORMS + part, part, part]
    assert [load.weights for load in placement.loads] == pytest.approx(sizes, rel=1e-4)
    own, sliced = 2 * 64 * TOKEN, 2 * 64 * TOKEN // 4
    assert [load.caches for load in placement.loads] == [own + sliced] * 2 + [sliced] * 2
    vocabulary = 1024  # of the tokenizer
    exchanged = 2 * 2 * vocabulary * 4 + 2 * LAYERS * 2 * HIDDEN * 2
    assert (placement.exchanged, placement.exchanges) == (exchanged, 1 + 2 * LAYERS)
    reads = max(load.reads for load in placement.loads) / 4.8e12
    ring = 2 * 3 / 4 * exchanged / 450e9 + placement.exchanges * LATENCY
    assert placement.seconds == pytest.approx(reads + ring)
    text = str(report(path, Target(parse_devices("4xH200"))))
    assert "2-3  25% of large" in text and "computed, not measured" in text


def test_a_map_is_accelerates(folder) -> None:
    path = written(folder, {"large": ", device_map: auto", "one": ", device: 'cuda:1'", "two": ""})
    placement = loads(path, "2xA100-80GB")
    assert [load.gpu for load in placement.loads] == [0, 1]
    assert sum(load.weights for load in placement.loads) == pytest.approx(3 * (SPLIT + NORMS))
    shares = [load.weights - SPLIT - NORMS for load in placement.loads]
    assert all(0.3 < share / (SPLIT + NORMS) < 0.7 for share in shares)
    assert placement.in_turn and not placement.exchanged


def test_what_cannot_fit_is_refused_with_what_to_do(folder) -> None:
    three = {"large": "", "one": "", "two": ""}
    many = {"batch_size": 1_000_000, "context": 1000}
    with pytest.raises(ArgumentError, match="fewer requests at once"):
        loads(written(folder, three), "L4", **many)
    path = written(folder, {**three, "one": ", device: 'cuda:2'"})
    with pytest.raises(ArgumentError, match=r"cuda:2 is not there.*cuda:0 to cuda:1"):
        loads(path, "2xL4")
    path = written(folder, {**three, "large": ", tp_plan: auto"}, "parallel: terms")
    with pytest.raises(Exception, match="4 key heads, which 8 processes cannot share"):
        explained(ExplainRequest(path, target=target("8xL4", 1, 512)))


def test_processes_without_memory_are_told_what_fits(folder, monkeypatch) -> None:
    from descant.runtime.explain import gpus

    small = gpus.GPUS["l4"]._replace(memory=2 * (SPLIT + NORMS))
    monkeypatch.setitem(gpus.GPUS, "l4", small)
    three = {"large": "", "one": "", "two": ""}
    for count, parallel, cure in (
        ("L4", "", "more GPUs"), ("3xL4", "", "parallel: terms"),
        ("2xL4", "parallel: terms", "tp_plan"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=cure):
            loads(written(folder, three, parallel), count)
    assert loads(written(folder, three, "parallel: terms"), "3xL4").loads


def test_what_is_no_gpu() -> None:
    assert parse_devices("4x8xh200")[:2] == (4, 8)
    assert parse_devices("A100-80GB") == (1, 1, parse_devices("a100-80gb").gpu)
    assert parse_devices("L4").gpu.memory == 22 * GIB
    for text, why in (
        ("8xH300", "no GPU 'H300'"), ("8 of them", "8xH200"), ("0xH200", "counts 0"),
        ("", "cannot be read"), ("1x2x3xH200", "cannot be read"), ("9999xL4", "may be 1 to"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=why):
            parse_devices(text)


def test_the_plan_says_where_arithmetic_is_the_limit_of_candidates() -> None:
    arguments = PlanArguments("base | rerank(reward_help, k=9)", demo_models(), {}, ({}, {}, {}))
    text = str(arguments.report(Target(parse_devices("H200"))))
    most = int(989e12 * 4 / (2 * 4.8e12)) // 10  # the demo models are float32
    assert f"reward_help: beyond {most} requests at once, 10 positions each" in text
    assert "base: beyond" not in text


def test_a_search_has_as_many_rows_as_it_draws() -> None:
    models = demo_models()
    arguments = PlanArguments("base | best_of(reward_help, n=4)", models, {}, ({}, {}, {}))
    one = PlanArguments("base", models, {}, ({}, {}, {}))
    on = Target(parse_devices("L4"))
    alone, four = (each.report(on)._placement.loads[0] for each in (one, arguments))
    assert four.caches >= 4 * alone.caches
