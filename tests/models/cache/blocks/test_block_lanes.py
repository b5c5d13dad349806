"""Real models over both back ends: what they say is what transformers says of each text alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import tiny_architectures as families
import torch
from ledger import check_memory
from tiny_architectures import V

from descant.models.combinations import BARE
from descant.models.errors import OutOfPages
from descant.models.lanes import prefill
from descant.models.lanes.transformers_lane import TransformersLane

ROWS, CAPACITY, EXACT = 5, 96, 1e-5


def drawn(length: int, seed: int = 1) -> list[int]:
    return torch.randint(3, V, (length,), generator=torch.manual_seed(seed)).tolist()


def lane_of(model: Any, page_size: int, tokens: int | None = None) -> TransformersLane:
    lane = TransformersLane(model, V, reads_all=False)
    lane.page_size = page_size
    lane.reserve(ROWS, CAPACITY, tokens)
    assert (lane.all_pages is not None) == (page_size > 0)
    return lane


def admit(lane: TransformersLane, prompts: Sequence[Sequence[int]]) -> None:
    reading = lane.admit(prompts, [BARE] * len(prompts))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            end.value()
            return


@torch.no_grad()
def check(lane: TransformersLane, texts: list[list[int]]) -> None:
    """Every row has its text, and its logits are those of the text alone."""
    assert lane.rows.all_texts() == texts
    logits = lane.logits()
    for row, text in enumerate(texts):
        alone = lane.model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
        assert (logits[row] - alone).abs().max() < EXACT * alone.abs().max(), f"row {row}"


@pytest.mark.parametrize("page_size", [0, 16, 32])
@pytest.mark.parametrize(("family", "seed"), [("llama", 0), ("gemma4_text", 1)])
def test_whatever_happens_to_rows(family, seed, page_size, monkeypatch) -> None:
    monkeypatch.setattr(prefill, "CHUNK", 64)
    source = random.Random(seed)
    lane = lane_of(families.model(family, seed), page_size, ROWS * CAPACITY - 64)
    stem, texts = drawn(60, seed), list[list[int]]()
    for step in range(40):
        what = source.choice(("admit", "admit", "feed", "feed", "leave", "copy", "rewrite"))
        if what == "admit" or not texts:
            many = min(2, ROWS - len(texts))
            new = [stem[: source.randrange(61)] + drawn(7, step + 9 * i) for i in range(many)]
            if many:
                admit(lane, new)
                texts += sorted(new, key=lambda text: lane.rows.all_texts().index(text))
        elif what == "feed" and max(map(len, texts)) < CAPACITY:
            tokens = [source.randrange(3, V) for _ in texts]
            lane.feed(torch.tensor(tokens))
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
        elif what == "leave":
            row = source.randrange(len(texts))
            lane.release(row, texts[row])
            texts[row] = texts[-1]
            texts.pop()
        elif what == "copy":
            sources = [source.randrange(len(texts)) for _ in texts]
            lane.copy_rows(sources, range(len(texts)))
            texts = [texts[row] for row in sources]
        else:
            row = source.randrange(len(texts))
            kept, new = source.randrange(len(texts[row])), drawn(source.randrange(1, 20), step)
            new = new[: CAPACITY - kept]
            lane.rows.rewrite({row: (kept, new)})
            texts[row] = [*texts[row][:kept], *new]
        if texts:
            check(lane, texts)
            check_memory(lane, of_chains=False)


def longrope(limit: int) -> Any:
    """A model whose keys are others in texts that are longer than the limit."""
    config = families.config("phi3")
    config.sliding_window, config.original_max_position_embeddings = None, limit
    config.rope_parameters = {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": limit,
        "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4,
    }  # fmt: skip
    return families.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("page_size", [0, 16])
def test_a_row_that_is_read_again_leaves_those_alone_that_had_its_pages(page_size) -> None:
    """One of two copies grows beyond its rotary frequencies: all its keys are others."""
    lane, text = lane_of(longrope(40), page_size), drawn(39)
    assert lane.rows.limits == [40]
    admit(lane, [text, text])
    check(lane, [text, text])
    one = torch.tensor([0])
    texts = [[*text], [*text]]
    for token in (5, 6, 7):
        lane.rows.feed_rows(torch.tensor([token]), one, [0])
        texts[0].append(token)
        check(lane, texts)
    for _ in range(3):
        lane.feed(torch.tensor([8, 9]))
        texts = [[*texts[0], 8], [*texts[1], 9]]
        check(lane, texts)


def test_rows_that_lie_side_by_side_go_by_masks(monkeypatch) -> None:
    """Attention by live lengths reads tables; a lane without them does not ask for it."""
    lane, text = lane_of(families.model("llama"), 0), drawn(20)
    lane.live.why_masked = lane.live.why_chunks_masked = None  # as on a GPU
    admit(lane, [text, text[:9]])
    check(lane, [text, text[:9]])
    assert lane.graph_key(1) != lane.graph_key(60), "what is seen is part of a recording"


@pytest.mark.parametrize("page_size", [0, 16])
def test_sharing_is_turned_off_and_on(page_size) -> None:
    lane, text = lane_of(families.model("llama"), page_size), drawn(40)
    found = []
    for shares in (True, True, False, True):
        lane.shares_prefixes = shares
        lane.reserve(ROWS, CAPACITY)
        admit(lane, [text])
        check(lane, [text])
        found.append(lane.cached_tokens(0))
    assert found == [0, 32, 0, 32]


def test_prompts_that_do_not_fit_leave_nothing_behind() -> None:
    lane, text = lane_of(families.model("llama"), 16, tokens=96), drawn(40)
    admit(lane, [text])
    free = lane.free_pages
    with pytest.raises(OutOfPages, match=r"pages more than are free, of 6\ndecode fewer rows"):
        admit(lane, [text, drawn(30, 2), drawn(20, 3)])
    assert lane.free_pages == free and not lane.blocks._made
    check(lane, [text])
    check_memory(lane, of_chains=False)


def test_texts_that_grow_out_of_their_pages_say_so_and_go_on() -> None:
    lane, texts = lane_of(families.model("llama"), 16, tokens=96), [drawn(45), drawn(40, 2)]
    admit(lane, texts)
    for token in range(3, 7):
        lane.feed(torch.tensor([token, token]))
        texts = [[*text, token] for text in texts]
    with pytest.raises(OutOfPages, match="take 1 pages more than the 6 there are"):
        lane.logits()
    check_memory(lane, of_chains=False)
    lane.release(1, texts.pop())
    check(lane, texts)
