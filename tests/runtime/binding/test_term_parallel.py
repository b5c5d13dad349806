"""Several processes, each with some of the models, draw the tokens of one process."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_process import generated, joined

import descant
from descant.runtime import TermParallel

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]
GREEDY = {"max_new_tokens": 5, "batch_size": 3, "eos_token_id": list(range(0, 300, 31))}
SAMPLED = {**GREEDY, "temperature": 1.0, "seed": 4}
CASES = {
    "a sum": ("base + 0.5*arm - 0.3*gpt2", GREEDY),
    "weights a row": ("base + a*arm + (1-a)*strong", {**SAMPLED, "params": {"a": [0, 1, 0.5, 2]}}),
    "adapters": ("base + 0.5*lora4 - 0.2*lora8 + arm", SAMPLED),
    "no sum": ("mix(0.5: base, 0.5: arm) - 0.2*top_k(gpt2, 50)", SAMPLED),
    "components": ("mix(0.5: base + arm, 0.5: gpt2)", {**SAMPLED, "sample_components": True}),
    "a condition": ("where(entropy(base) > 4, arm, base) + 0.5*gpt2", SAMPLED),
    "rewards": ("base + arm | rerank(0.7*rm + 0.3*rm2, k=5, w=1.5)", GREEDY),
    "rewards read again": ("(base | rerank(rm, k=4, norm=prefix)) + 0.5*arm", SAMPLED),
    "split layers": ("split + 0.5*arm | rerank(rm, k=4)", SAMPLED),
    "a search by rewards": ("base | best_of(rm, n=3)", SAMPLED),
    "operators of one's own": ("swaying(base, arm, a) + 0.5*contrast(gpt2, base)", SAMPLED),
    "a search by models": (
        "base | blockwise(arm - gpt2, beams=2, samples=2, length=3)", {**SAMPLED, "batch_size": 8}
    ),
}  # fmt: skip

RUN = {2: set(CASES), 4: {"a sum", "adapters", "rewards", "a condition", "a search by models"}}


def case(zoo, formula: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a process needs to know, as JSON holds it."""
    import re

    from checkpoints import LORA

    named = {name for name in re.findall(r"[A-Za-z_]\w*", formula) if known(name)}
    models = {name: zoo.adapter(name) if name in LORA else zoo.path(name) for name in named}
    if "split" in formula:
        models["split"] = {"path": zoo.path("base"), "tp_plan": "auto"}
    params = {"a": 0.5} if "a*" in formula or " a)" in formula else None
    given = {"prompts": PROMPTS, "settings": settings, "params": params}
    return {"formula": formula, "models": models, **given}


def without_plan(spec: Any) -> Any:
    """The same model in one process."""
    return spec["path"] if isinstance(spec, dict) and "tp_plan" in spec else spec


def known(name: str) -> bool:
    """Whether it is a checkpoint's name."""
    from checkpoints import LORA, MODELS

    return name in MODELS or name in LORA


def decode_in(processes: int, cases: Path, out: Path) -> None:
    """Decode in several processes, forked from one that has imported everything.

    tests/runs/test_models_shared_out.py starts them with torchrun itself.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["decoding_process"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        forks.Process(target=joined, args=(rank, processes, port, str(cases), str(out)))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(120)
        assert [process.exitcode for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_tokens_of_one_process(zoo, tmp_path, own_words, processes) -> None:
    cases = {name: case(zoo, *given) for name, given in CASES.items() if name in RUN[processes]}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    decode_in(processes, tmp_path / "cases.json", tmp_path / "out")
    said = [json.loads((tmp_path / f"out.{rank}").read_text()) for rank in range(processes)]
    for name, one in cases.items():
        whole = {name: without_plan(spec) for name, spec in one["models"].items()}
        decoder = descant.compile(one["formula"], whole, params=one["params"], device="cpu")
        found = decoder.generate(one["prompts"], **one["settings"])
        expected = [completion.token_ids for completion in found]
        assert [rank[name]["tokens"] for rank in said] == [expected] * processes, name
        if name == "a sum":
            drawn = generated(decoder, one["models"]["base"], PROMPTS[:1])
            assert [rank["generated"] for rank in said] == [drawn] * processes
        owners = said[0][name]["owners"]
        assert all(rank[name]["owners"] == owners for rank in said)
        held = [owner for owner in owners if owner is not None]
        assert len(set(held)) == min(processes, len(held))
        for number, rank in enumerate(said):
            kinds = dict(zip(owners, rank[name]["loaded"], strict=True))
            assert kinds.get(number, "TransformersLane") == "TransformersLane"
            remote = [owner not in (None, number) for owner in owners]
            loaded = [kind == "RemoteLane" for kind in rank[name]["loaded"]]
            assert loaded == remote
    assert all("must ask for the same rows" in rank["differing"] for rank in said)
    assert all("for one process" in rank["refused"] for rank in said)


def test_a_job_of_one_process_decodes_as_ever(compiled) -> None:
    expected = compiled("base + 0.5*arm").generate(PROMPTS, **SAMPLED)
    decoder = compiled("base + 0.5*arm", parallel="terms", device="cpu")
    found = decoder.generate(PROMPTS, **SAMPLED)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert "1 process" in str(decoder.plan)
    with pytest.raises(ValueError, match='there is "terms"'):
        compiled("base", parallel="rows")


def test_split_layers_need_processes_and_take_no_adapters(zoo) -> None:
    models: dict[str, Any] = {"base": {"path": zoo.path("base"), "tp_plan": "auto"}}
    with pytest.raises(descant.FormulaError, match="split over processes") as caught:
        descant.compile("base", models, device="cpu")
    assert 'parallel="terms"' in caught.value.cure
    with pytest.raises(descant.ModelError, match="give device_map or tp_plan"):
        descant.compile("m", {"m": {"path": "x", "tp_plan": "auto", "device_map": "auto"}})


def test_heads_that_cannot_be_shared_are_refused(zoo, monkeypatch) -> None:
    made = TermParallel("cpu")
    made.size = 3
    monkeypatch.setattr(importlib.import_module("descant.api"), "TermParallel", lambda device: made)
    models = {"base": {"path": zoo.path("base"), "tp_plan": "auto"}}
    with pytest.raises(descant.FormulaError, match=r"key heads, which 3 processes cannot share"):
        descant.compile("base", models, device="cpu", parallel="terms")


def test_weights_are_shared_out_by_size() -> None:
    ranks = TermParallel("cpu")
    ranks.size = 2
    assert ranks.assign([5, 9, 3, 1]) == [1, 0, 1, 1]
    assert ranks.assign([]) == []
    assert torch.equal(ranks.all_reduce([], []) or torch.zeros(0), torch.zeros(0))
