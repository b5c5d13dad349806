"""Rows that arrive while others are decoded: prompts are read a chunk at a time between the steps,
and where the host is a step behind the device; neither changes a token.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

lane_module = importlib.import_module("descant.models.lanes.prefill")
batch_module = importlib.import_module("descant.runtime.batch.batch")

FORMULAS = [
    "base + a*arm",
    "base + a*lora4 - 0.3*base@none",
    "base + a*gpt2 | rerank(rm, k=4, w=1.5)",
    "where(entropy(base) > 4, base + a*arm, base) | repetition_penalty(1.2)",
    "(base | rerank(rm, k=3, norm=prefix)) + a*arm",
]


def prompts_of(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


def settings(count: int) -> dict[str, Any]:
    return {
        "max_new_tokens": 14, "temperature": 1.0, "seed": list(range(count)), "batch_size": 3,
        "eos_token_id": list(range(0, 300, 13)), "params": {"a": [0.5, 0.0, 1.5] * (count // 3)},
    }  # fmt: skip


ALONE: dict[str, list[list[int]]] = {}  # by formula


def alone(decoder, prompts) -> list[list[int]]:
    given = settings(len(prompts))
    found = []
    for i, prompt in enumerate(prompts):
        one = {**given, "seed": i, "params": {"a": given["params"]["a"][i]}}
        found.append(decoder.generate(prompt, **one)[0].token_ids)
    return found


def small_chunks(monkeypatch, size: int) -> None:
    monkeypatch.setattr(lane_module, "CHUNK", size)
    monkeypatch.setattr(batch_module, "CHUNK", size)


@pytest.mark.pages(chunk=16, ahead=1)
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("chunk", [4, 16, 2048])
@pytest.mark.parametrize("formula", FORMULAS)
def test_who_comes_and_goes_changes_no_token(compiled, monkeypatch, formula, chunk, ahead) -> None:
    prompts = prompts_of([30, 4, 9, 2, 25, 1, 17, 60, 6])
    decoder = compiled(formula, params={"a": 0.5})
    expected = ALONE.get(formula) or ALONE.setdefault(formula, alone(decoder, prompts))
    small_chunks(monkeypatch, chunk)
    decoder.session.engine.ahead = ahead
    found = decoder.generate(prompts, **settings(len(prompts)))
    assert [one.token_ids for one in found] == expected
    assert {one.finish_reason for one in found} == {"eos", "length"}


@pytest.mark.parametrize("chunk", [8, 32])
def test_no_row_waits_for_more_than_a_chunk(zoo, compiled, monkeypatch, chunk) -> None:
    """Between two steps of rows in flight at most a chunk of prompt tokens is read, over lanes."""
    models = {name: zoo.model(name) for name in ("base", "arm")}
    small_chunks(monkeypatch, chunk)
    read: list[int] = []  # prompt tokens between two steps, where rows wait
    total, reads = [0], batch_module.Batch.read

    def noted(batch: Any, most: Any = None) -> int:
        before, waiting = total[0], batch.count
        joined = reads(batch, most)
        if waiting:
            read.append(total[0] - before)
        return joined

    def count(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        total[0] += kwargs["input_ids"].numel()

    monkeypatch.setattr(batch_module.Batch, "read", noted)
    hooks = [m.base_model.register_forward_hook(count, with_kwargs=True) for m in models.values()]
    prompts = prompts_of([90, 70, 40, 66, 5, 33, 52, 8])
    decoder = compiled("base + 0.5*arm", models=models)
    given = {"temperature": 1.0, "seed": 0, "eos_token_id": list(range(0, 300, 9))}
    try:
        decoder.generate(prompts, batch_size=3, max_new_tokens=30, **given)
    finally:
        for hook in hooks:
            hook.remove()
    assert 0 < max(read) <= chunk
    assert sum(read) > 100 and len(read) > sum(read) / chunk


def test_a_row_is_never_read_beyond_its_last_token(compiled) -> None:
    """A step behind, the host lets a row that has ended draw once more, and drops that."""
    decoder = compiled("base + 0.5*arm")
    prompts = prompts_of([5, 9, 3])
    given = {"max_new_tokens": 8, "eos_token_id": list(range(0, 300, 7)), "seed": 1}
    now = decoder.generate(prompts, temperature=1.0, **given)
    steps = decoder.session.engine.stats.steps
    decoder.session.engine.ahead = 1
    behind = decoder.generate(prompts, temperature=1.0, **given)
    assert [one.token_ids for one in behind] == [one.token_ids for one in now]
    assert steps <= decoder.session.engine.stats.steps <= steps + 1
    full = decoder.generate(prompts, max_new_tokens=8, eos_token_id=[])
    assert [len(one.token_ids) for one in full] == [8] * 3
    assert decoder.session.engine.stats.steps == 8
    streamed = list(decoder.stream(prompts[0], **given, temperature=1.0))
    assert "".join(streamed) == now[0].text


def test_an_error_a_step_later_names_the_right_token(compiled) -> None:
    from descant import FormulaError, TableModel

    table = torch.zeros(5, 5)
    table[:, 1], table[1, 2], table[2] = 9, 99, torch.nan
    decoder = compiled("base", models={"base": TableModel(table)})
    for ahead in (0, 1):
        decoder.session.engine.ahead = ahead
        with pytest.raises(FormulaError, match="base gave NaN for row 0, token 2"):
            decoder.generate([0], max_new_tokens=6)
