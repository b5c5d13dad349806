"""Forwards whose rows read unlike numbers of tokens, against transformers' forward of each text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import tiny_architectures as families
import torch
from test_prompt_logits import admitted, check, counted, here, lane_of, prompt

from descant.models.checkpoint.reward_head import Head
from descant.models.lanes.transformers_lane import TransformersLane
from descant.models.rewards.shared_lane import SharedRewards

V = families.V


@pytest.mark.parametrize("family", here)
def test_prompts_are_read_beside_rows_that_decode(family) -> None:
    """Where that may be: one forward reads one token of the old rows, and all of the new ones."""
    model = families.model(family)
    lane = lane_of([prompt(21), prompt(9, 2)], model)
    lane.logits()
    lane.feed(torch.tensor([5, 6]))
    count = counted(model)
    admitted(lane, [prompt(13, 3), prompt(1, 4), prompt(5, 5)])
    if lane.is_ragged:
        assert not count and lane.rows.backlog == 12
    logits = lane.logits()
    if lane.is_ragged:
        assert count["head"] == 1
    check(lane, logits)
    for step in range(2):
        lane.feed(torch.arange(5) + 7 + step)
        check(lane)
    lane.release(0, [])
    lane.feed(torch.arange(4) + 3)
    lane.feed(torch.arange(4) + 9)  # it did not run for a step
    check(lane)


def test_most_architectures_may_be_read_so() -> None:
    ragged = [family for family in here if lane_of([prompt(3)], families.model(family)).is_ragged]
    assert {"llama", "qwen2", "mistral", "phi3"} <= {*ragged} and len(ragged) > len(here) // 3


def test_what_was_read_so_is_found_again() -> None:
    model = families.model("llama")
    lane = lane_of([prompt(9)], model)
    text = prompt(40, 2)
    admitted(lane, [text])
    check(lane)
    count, before = counted(model), lane.rows.count
    admitted(lane, [[*text, 7, 8, 9]])
    assert lane.cached_tokens(before) == 32  # of whole units
    logits = lane.logits()
    assert count == {"head": 1, "backbone": 1}
    check(lane, logits)


close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)


def sizes_of(model: Any) -> list[int]:
    """The tokens of each forward of a reward model's backbone, from now on."""
    sizes: list[int] = []
    keep = model.base_model.register_forward_pre_hook
    keep(lambda _, args, given: sizes.append(given["input_ids"].numel()), with_kwargs=True)
    return sizes


@torch.no_grad()
def rewards_alone(model: Any, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of each text by itself, without a cache."""
    head = Head(model)
    outputs = [
        model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
        for ids in texts
    ]
    return torch.cat([head(hidden)[:, -1] for hidden in outputs])


@pytest.mark.parametrize("reads_all", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral (window)"])
def test_views_have_as_many_candidates_as_they_like(family, reads_all) -> None:
    """Several views ask, then one forward scores all, and reads what came meanwhile."""
    model = families.model(family, reward=True)
    shared = SharedRewards(TransformersLane(model, V, reads_all))
    assert shared.lane.shares_rewards
    views = [shared.view() for _ in range(3)]
    texts = [[prompt(12, 1), prompt(7, 2)], [prompt(15, 3)], [prompt(4, 4)]]
    for view in views:
        view.reserve(4, 64)
    for view, own in zip(views, texts, strict=True):
        admitted(view, own)
    sizes, draw = sizes_of(model), torch.manual_seed(0)
    for step in range(4):
        asking = views[: 2 + step % 2]  # the last one asks every other time
        asked = [
            torch.randint(3, V, (len(view.lane_rows), k), generator=draw)
            for view, k in zip(asking, (3, 5, 2), strict=False)
        ]
        sizes.clear()
        for view, candidates in zip(asking, asked, strict=True):
            view.ask(candidates)
        answers = [view.answer() for view in asking]
        assert len(sizes) == 1
        if step == 2:  # candidates, and the tokens before them that are pending
            rows = sum(len(own) for own in texts[:2])
            assert sizes[0] == sum(map(torch.numel, asked)) + (not reads_all) * rows
        for (rewards, of_texts), own, candidates in zip(answers, texts, asked, strict=False):
            pairs = zip(own, candidates.tolist(), strict=True)
            longer = [[*ids, new] for ids, row in pairs for new in row]
            close(rewards, rewards_alone(model, longer).view_as(rewards))
            if not reads_all:
                close(of_texts, rewards_alone(model, own))
        for view, own, candidates in zip(views, texts, [*asked, asked[0]], strict=False):
            choice = torch.full((len(own),), step % 2)
            if view in asking and reads_all:
                tokens = candidates.gather(1, choice[:, None])[:, 0]
                view.keep(choice, tokens)
            else:
                tokens = torch.arange(len(own)) + 11 + step
                view.feed(tokens)
            for ids, token in zip(own, tokens.tolist(), strict=True):
                ids.append(token)
    views[0].release(0)
    texts[0][0] = texts[0].pop()
    candidates = torch.tensor([[8, 9]])
    rewards, _ = views[0].rewards(candidates)
    close(rewards[0], rewards_alone(model, [[*texts[0][0], new] for new in (8, 9)]))
    after = torch.tensor([[1, 0]])
    along, of_texts = views[0].rewards_along(candidates[:, None].expand(1, 2, 2), after, 1)
    for at, cut in enumerate((texts[0][0][:-1], texts[0][0])):
        close(along[0, at], rewards_alone(model, [[*cut, new] for new in (8, 9)]))
        close(of_texts[:, at], rewards_alone(model, [cut]))
