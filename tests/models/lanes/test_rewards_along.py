"""Rewards at several positions of a text: each is what the model says of that whole text alone.

Texts go on as drafted decoding has them do: some tokens are added, all positions are scored, and
the texts are moved back to one of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import tiny_architectures as families
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import at_the_end
from tiny_architectures import V
from torch import Tensor

import descant
from descant.models.cache import window as window_file
from descant.models.combinations import BARE
from descant.models.lanes.remote import RemoteLane
from descant.models.lanes.token_tree import TokenTreeLane
from descant.models.lanes.transformers_lane import TransformersLane

EXACT, ROWS, LIMIT = 1e-5, 4, 14
token = st.integers(0, V - 1)
WINDOWS = {"llama": 0, "gpt2": 0, "mistral (window)": 8, "gemma3_text": 8, "longrope": 0}


def longrope() -> Any:
    """A model whose keys are others in texts of more than ``LIMIT`` tokens."""
    config = families.config("phi3")
    config.sliding_window, config.original_max_position_embeddings = None, LIMIT
    config.num_labels = 1
    config.rope_parameters = {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": LIMIT,
        "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4,
    }  # fmt: skip
    made = families.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return families.shaken(made, 0)


MODELS = {
    name: longrope() if name == "longrope" else families.model(name, reward=True)
    for name in WINDOWS
}


def lane_of(
    model: Any, reads_all: bool, page_size: int = 0, live: bool = False
) -> TransformersLane:
    """A lane, without room for many candidates: of pages there are enough."""
    lane = TransformersLane(model, V, reads_all)
    lane.page_size = page_size
    lane.reserve(ROWS, 32, None)
    if page_size:
        lane.blocks.grow(ROWS * 20)
    if live:
        lane.live.why_masked = None  # as on a GPU; the first forward compares with masks
        lane.exact_length = False
    return lane


def admit(lane: Any, prompts: Sequence[Any], added: Sequence[Any] = ()) -> list[Any]:
    """Prompts in new rows; the prompts by row."""
    reading = lane.admit(prompts, added or [BARE] * len(prompts))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            pairs = sorted(zip(end.value(), prompts, strict=True), key=lambda pair: pair[0])
            return [prompt for _, prompt in pairs]


def compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    one, other = torch.stack(list(found)), torch.stack(list(expected))
    assert (one - other).abs().max() < EXACT * max(1.0, float(other.abs().max()))


def padded(rows: Sequence[Sequence[Any]]) -> Tensor:
    """Ragged rows of positions as one tensor: the last one of each is repeated."""
    most = max(map(len, rows))
    return torch.tensor([[*row, *[row[-1]] * (most - len(row))] for row in rows])


def score(
    lane: Any, texts: list[list[int]], counts: Sequence[int], candidates: Sequence[Any],
    models: Sequence[Any],
) -> None:  # fmt: skip
    """Candidates at the last positions of texts, ``counts`` of each, against each text alone."""
    most = max(counts) - 1
    candidates = [row[:count] for row, count in zip(candidates, counts, strict=True)]
    after = padded([[*range(count)][::-1] for count in counts])
    rewards, of_texts = lane.rewards_along(padded(candidates), after, most)
    assert rewards.shape == (*padded(candidates).shape, 1) and of_texts.shape == (*after.shape, 1)
    assert rewards.dtype == of_texts.dtype == torch.float32
    found, expected = [], []
    for row, (text, model) in enumerate(zip(texts, models, strict=True)):
        for position in range(after.shape[1]):
            at = min(position, counts[row] - 1)
            read = text[: len(text) - (counts[row] - 1 - at)]
            found += [of_texts[row, position], *rewards[row, position]]
            expected.append(at_the_end(model, read))
            expected += [at_the_end(model, [*read, one]) for one in candidates[row][at]]
    compare(found, expected)
    assert lane.rows.all_texts() == texts
    assert lane.rows.counts() == ([*map(len, texts)], [*map(len, texts)])


@st.composite
def drafted(draw: Any, rows: int) -> tuple[list[list[int]], list[Any], list[int], list[int]]:
    """A round: per row, drafted tokens, candidates at each position, what is kept, the next."""
    counts = draw(st.lists(st.integers(1, 5), min_size=rows, max_size=rows))
    k = draw(st.integers(1, 5))
    drafts = [draw(st.lists(token, min_size=n - 1, max_size=n - 1)) for n in counts]
    candidates = [[draw(st.lists(token, min_size=k, max_size=k)) for _ in range(n)] for n in counts]
    accepted = [draw(st.integers(0, n - 1)) for n in counts]
    return drafts, candidates, accepted, draw(st.lists(token, min_size=rows, max_size=rows))


def add(lane: Any, texts: list[list[int]], new: Sequence[Sequence[int]]) -> None:
    """Unread tokens at the ends of texts."""
    longest = max(len(text) + len(tokens) for text, tokens in zip(texts, new, strict=True))
    lane.ensure_capacity(longest)
    ends = lane.rows.counts()[1]
    lane.rows.rewrite({row: (ends[row], tokens) for row, tokens in enumerate(new)})
    for text, tokens in zip(texts, new, strict=True):
        text += tokens


def go_back(lane: Any, texts: list[list[int]], kept: Sequence[int], tokens: Sequence[int]) -> None:
    """Texts end after so many tokens, and with one token more."""
    changes = zip(kept, tokens, strict=True)
    lane.rows.rewrite({row: (end, [one]) for row, (end, one) in enumerate(changes)})
    for text, end, one in zip(texts, kept, tokens, strict=True):
        text[end:] = [one]


def ordinary(lane: Any, texts: list[list[int]], model: Any, candidates: Tensor) -> None:
    """A step as without drafts: candidates after each text, and going on with one of them."""
    rewards, of_texts = lane.rewards(candidates)
    found, expected = [], []
    for row, text in enumerate(texts):
        found += [*rewards[row], *([] if of_texts is None else [of_texts[row]])]
        expected += [at_the_end(model, [*text, one]) for one in candidates[row].tolist()]
        expected += [] if of_texts is None else [at_the_end(model, text)]
    compare(found, expected)
    chosen = candidates[:, -1]
    last = torch.full((len(texts),), candidates.shape[1] - 1)
    lane.keep(last, chosen) if of_texts is None else lane.feed(chosen)
    for text, one in zip(texts, chosen.tolist(), strict=True):
        text.append(one)


@pytest.mark.parametrize("page_size", [0, 16])
@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_rounds_of_drafts(name, reads_all, page_size, data) -> None:
    model, rows = MODELS[name], data.draw(st.integers(1, 3))
    lane = lane_of(model, reads_all, page_size, live=page_size > 0 and data.draw(st.booleans()))
    length = st.one_of(st.integers(1, 20), st.integers(LIMIT - 4, LIMIT + 2))
    prompts = [data.draw(st.lists(token, min_size=n, max_size=n)) for n in
               data.draw(st.lists(length, min_size=rows, max_size=rows))]  # fmt: skip
    texts = [[*prompt] for prompt in admit(lane, prompts)]
    models = [model] * rows
    for _ in range(data.draw(st.integers(1, 3))):
        drafts, candidates, accepted, tokens = data.draw(drafted(rows))
        begins = [len(text) for text in texts]
        add(lane, texts, drafts)
        score(lane, texts, [len(draft) + 1 for draft in drafts], candidates, models)
        if data.draw(st.booleans()):  # in another stage, of a formula that has two
            score(lane, texts, [len(draft) + 1 for draft in drafts], candidates, models)
        kept = [begin + count for begin, count in zip(begins, accepted, strict=True)]
        go_back(lane, texts, kept, tokens)
        if data.draw(st.booleans()):
            ordinary(lane, texts, model, torch.tensor([row[0] for row in candidates]))
    ordinary(lane, texts, model, torch.arange(5, 5 + 2 * rows).view(rows, 2))


def texts_of(*lengths: int) -> list[list[int]]:
    made = [torch.randint(3, V, (n,), generator=torch.manual_seed(n)) for n in lengths]
    return [tokens.tolist() for tokens in made]


def options(rows: int, positions: int, k: int) -> list[list[list[int]]]:
    generator = torch.manual_seed(k)
    return torch.randint(0, V, (rows, positions, k), generator=generator).tolist()


@pytest.mark.parametrize("k", [2, 13, 40])  # 13 are more queries than kernels read, 40 than fold
@pytest.mark.parametrize("how", ["rows", "runs", "pages", "live"])
@pytest.mark.parametrize("name", ["llama", "mistral (window)"])
def test_many_candidates(name, how, k, monkeypatch) -> None:
    monkeypatch.setattr(window_file, "RUN", 0 if how == "runs" else 1 << 30)
    model = MODELS[name]
    lane = lane_of(model, False, 16 if how in ("pages", "live") else 0, how == "live")
    texts = admit(lane, texts_of(30, 3, 12))
    add(lane, texts, texts_of(4, 2, 4))
    score(lane, texts, [5, 3, 5], options(3, 5, k), [model] * 3)
    if how == "live":
        assert lane.live.why_masked is None


def test_the_text_that_came_before_is_read_first() -> None:
    """A lane that did not run for some steps has more to read than there are positions."""
    model = MODELS["llama"]
    for reads_all in (False, True):
        lane = lane_of(model, reads_all)
        texts = admit(lane, texts_of(6, 9))
        add(lane, texts, texts_of(20, 1))
        score(lane, texts, [2, 3], options(2, 3, 2), [model] * 2)


def test_one_forward_is_all_that_runs() -> None:
    lane, run = lane_of(MODELS["llama"], False), list[tuple[int, ...]]()
    texts = admit(lane, texts_of(12, 7))
    add(lane, texts, texts_of(3, 1))
    hooked = lane.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: run.append(tuple(args[0].shape))
    )
    lane.rewards_along(padded(options(2, 4, 5)), torch.tensor([[3, 2, 1, 0], [1, 0, 0, 0]]), 3)
    hooked.remove()
    assert run == [(2 * (4 + 4 * 5), 1)]


def test_rows_have_their_adapters(zoo) -> None:
    model, tuned = zoo.model("rm"), zoo.model("lora_rm").base_model.model
    for page_size in (0, 16):
        lane = lane_of(copy.deepcopy(model), False, page_size)
        number = lane.adapters.add("lora_rm", zoo.path("lora_rm"))
        tuning = lane.adapters.combination([(number, 1.0)])
        prompts = texts_of(13, 8, 5)
        assert admit(lane, prompts, [tuning, BARE, tuning]) == prompts
        add(lane, prompts, texts_of(3, 3, 1))
        score(lane, prompts, [4, 4, 2], options(3, 4, 3), [tuned, model, tuned])


@pytest.mark.parametrize("page_size", [0, 16])
def test_idle_rows_of_a_bucket(page_size) -> None:
    model = MODELS["gpt2"]
    lane = lane_of(model, True, page_size)
    lane.record()
    lane.reserve(6, 64)
    lane.use_buckets(True)
    texts = admit(lane, texts_of(8, 5, 13))
    add(lane, texts, texts_of(3, 3, 3))
    assert lane.rows.width > 3
    drawn = padded(options(3, 4, 3))
    rows = torch.tensor([0, 1, 2, *[0] * (lane.rows.width - 3)])
    after = torch.tensor([[3, 2, 1, 0]]).expand(3, 4)
    rewards, of_texts = lane.rewards_along(drawn[rows], after[rows], 3)
    for row, text in enumerate(texts):
        for position in range(4):
            read = text[: len(text) - 3 + position]
            expected = [at_the_end(model, [*read, one]) for one in drawn[row, position].tolist()]
            compare(rewards[row, position], expected)
            compare([of_texts[row, position]], [at_the_end(model, read)])


@pytest.mark.parametrize("name", ["llama", "longrope"])
def test_a_lane_of_another_rank_counts_alike_and_gives_zeros(name) -> None:
    lane, remote = lane_of(MODELS[name], False), RemoteLane(
        copy.deepcopy(MODELS[name]).to("meta"), V, False, "cpu"
    )  # fmt: skip
    remote.reserve(ROWS, 32)
    for one in (lane, remote):
        texts = admit(one, texts_of(12, 7))
        add(one, texts, texts_of(3, 1))
    given = padded(options(2, 4, 5)), torch.tensor([[3, 2, 1, 0], [1, 0, 0, 0]]), 3
    for found, expected in zip(remote.rewards_along(*given), lane.rewards_along(*given),
                               strict=True):  # fmt: skip
        assert found.shape == expected.shape and found.device == expected.device
        assert found.dtype == torch.float32 and not found.any() and expected.any()
    assert remote.rows.counts() == lane.rows.counts()
    assert remote.rows.all_texts() == lane.rows.all_texts()
    assert remote.rows.capacity == lane.rows.capacity


@given(data=st.data())
def test_a_table_is_looked_up(data) -> None:
    rows = data.draw(st.integers(1, 3))
    lane = descant.RuleReward.random(V, seed=3).lane(V)
    lane.reserve(rows, 64)
    texts = [data.draw(st.lists(token, min_size=1, max_size=5)) for _ in range(rows)]
    texts = [[*text] for text in admit(lane, texts)]
    drafts, candidates, _, _ = data.draw(drafted(rows))
    for row, (text, draft) in enumerate(zip(texts, drafts, strict=True)):
        lane.rows.rewrite({row: (len(text), draft)})
        text += draft
    counts = [len(draft) + 1 for draft in drafts]
    after = padded([[*range(count)][::-1] for count in counts])
    rewards, of_texts = lane.rewards_along(padded(candidates), after, max(counts) - 1)
    for row, text in enumerate(texts):
        for position in range(counts[row]):
            read = text[: len(text) - (counts[row] - 1 - position)]
            wanted = [lane.table[read[-1], one] for one in candidates[row][position]]
            assert rewards[row, position, :, 0].tolist() == torch.stack(wanted).tolist()
            assert of_texts[row, position, 0] == lane.table[read[max(len(read) - 2, 0)], read[-1]]
    assert lane.rows.all_texts() == texts


def test_a_limit_is_crossed_and_crossed_back() -> None:
    """Repeated at the very limit, where a candidate's text has other keys than the text."""
    model = MODELS["longrope"]
    for reads_all in (False, True):
        lane = lane_of(model, reads_all)
        texts = admit(lane, texts_of(LIMIT - 2))
        for _ in range(2):
            add(lane, texts, [[5, 6]])
            score(lane, texts, [3], options(1, 3, 2), [model])
            score(lane, texts, [2], options(1, 2, 2), [model])
            go_back(lane, texts, [LIMIT - 3], [9])
        ordinary(lane, texts, model, torch.tensor([[4, 8]]))
        ordinary(lane, texts, model, torch.tensor([[7, 3]]))


def test_a_text_at_the_limit_is_scored_twice_and_cut_for_good() -> None:
    """Where its keys were read for a longer text; and where no position is at its end."""
    model = MODELS["longrope"]
    lane = lane_of(model, False)
    texts = admit(lane, texts_of(LIMIT))
    for _ in range(2):
        compare(lane.rewards(torch.tensor([[4, 8]]))[1], [at_the_end(model, texts[0])])
    rewards, of_texts = lane.rewards_along(torch.tensor([[[5], [6]]]), torch.tensor([[3, 1]]), 3)
    compare(of_texts[0], [at_the_end(model, texts[0][:-behind]) for behind in (3, 1)])
    found = [at_the_end(model, [*texts[0][:-behind], one]) for behind, one in ((3, 5), (1, 6))]
    compare(rewards[0, :, 0], found)
    assert lane.rows.all_texts() == texts and lane.rows.counts() == ([LIMIT], [LIMIT])


def test_a_lane_of_text_trees_keeps_its_own_capacity() -> None:
    """Capacity grows where candidates need it, and what was read stays."""
    lane = TokenTreeLane(MODELS["llama"], V, reads_all=True)
    lane.reserve(1, 32)
    texts = admit(lane, texts_of(30))
    score(lane, texts, [1], options(1, 1, 9), [lane.model])
    assert lane.rows.capacity >= 39
