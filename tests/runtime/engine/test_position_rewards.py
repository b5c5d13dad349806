"""A stage's rewards where every position of a text is a row of the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import judge, language
from reference_rules import plain

import descant
from descant.runtime.engine.candidate_rewards import CandidateRewards, PositionRewards

PROMPTS = ["the river", "a", "def add(one, two): return"]
token = st.integers(3, 90)
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": []}


def begun(decoder: Any, **params: Any) -> tuple[Any, CandidateRewards]:
    """A batch of the prompts, and what a step without drafts asks its stage's reward models."""
    engine = decoder.session.engine
    requests = decoder.session.builder.requests(PROMPTS, **GREEDY, **params)
    batch = engine.begin(requests, len(requests))
    batch.admit(requests)
    batch.read()
    [rewarder] = engine.step.prepare(batch).rewarders.values()
    return batch, rewarder


def along(rewarder: CandidateRewards, counts: list[int]) -> PositionRewards:
    """The same over positions: after each, as many tokens as there are positions left."""
    pairs = [(slot, i) for slot, count in enumerate(counts) for i in range(count)]
    owner, ahead = torch.tensor(pairs).unbind(1)
    after = torch.tensor([counts[slot] - 1 - i for slot, i in pairs])
    return rewarder.along(owner, ahead, after, max(counts))


def rewrite(rewarder: CandidateRewards, texts: list[list[int]], starts: Any) -> None:
    """Texts of every slot after its prompt, in every lane."""
    for number, lane in rewarder.lanes.items():
        owners = rewarder.owners[number].tolist()
        lane.rows.rewrite({
            row: (starts[number][row], texts[slot]) for row, slot in enumerate(owners)
        })  # fmt: skip


@st.composite
def rounds(draw: Any, k: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Drafted tokens of every slot, and candidates at each of its positions."""
    drafts = [draw(st.lists(token, max_size=4)) for _ in PROMPTS]
    candidates = [
        [draw(st.lists(token, min_size=k, max_size=k)) for _ in range(len(draft) + 1)]
        for draft in drafts
    ]
    return drafts, candidates


FORMULAS = [
    "base | rerank(rm, k=4)",
    "base | rerank(0.7*rm - 0.3*rm2, k=4, norm=prefix)",
    "base | rerank(rm + rm2, k=4, keep=all)",
]


@pytest.mark.parametrize("formula", FORMULAS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_each_position_has_what_a_step_there_would_have(zoo, compiled, formula, data) -> None:
    decoder = compiled(formula)
    _, rewarder = begun(decoder)
    starts = {number: lane.rows.counts()[1] for number, lane in rewarder.lanes.items()}
    for _ in range(2):
        k = data.draw(st.integers(1, 4))
        drafts, candidates = data.draw(rounds(k))
        rewrite(rewarder, drafts, starts)
        positions = along(rewarder, [len(draft) + 1 for draft in drafts])
        drawn = torch.tensor([row for rows in candidates for row in rows])
        rewards, of_texts = positions.rewards(drawn)
        names = ["rm", "rm2"][: len(rewards)]
        pairs = zip(positions.owner.tolist(), positions.ahead.tolist(), strict=True)
        for row, (slot, ahead) in enumerate(pairs):
            read = [*tokenizer()(PROMPTS[slot])["input_ids"], *drafts[slot][:ahead]]
            for name, reward, text in zip(names, rewards, of_texts, strict=True):
                model = zoo.model(name)
                expected = [plain.reward(model, [*read, one]) for one in drawn[row].tolist()]
                assert reward[row].tolist() == pytest.approx(expected, abs=1e-4)
                assert text is not None
                assert text[row].item() == pytest.approx(plain.reward(model, read), abs=1e-4)
        assert {len(reward) for reward in (*rewards, *of_texts)} == {len(drawn)}


def test_lanes_have_rows_of_some_slots_alone(zoo, compiled) -> None:
    """Of a slot without a row there is no reward to look at; others are as they are."""
    decoder = compiled("base | rerank(a*rm + b*rm2, k=2)", params={"a": 1.0, "b": 1.0})
    params = {"params": {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0]}}
    _, rewarder = begun(decoder, **params)
    assert sorted(len(lane.rows.all_texts()) for lane in rewarder.lanes.values()) == [1, 1]
    starts = {number: lane.rows.counts()[1] for number, lane in rewarder.lanes.items()}
    drafts = [[5, 6], [7], [8, 9, 10]]
    rewrite(rewarder, drafts, starts)
    positions = along(rewarder, [3, 2, 4])
    drawn = torch.arange(20, 38).view(9, 2)
    rewards, _ = positions.rewards(drawn)
    for slot, (name, reward) in enumerate(zip(("rm", "rm2"), rewards, strict=True)):
        for row in (positions.owner == slot).nonzero()[:, 0].tolist():
            read = [*tokenizer()(PROMPTS[slot])["input_ids"], *drafts[slot][: positions.ahead[row]]]
            expected = [plain.reward(zoo.model(name), [*read, one]) for one in drawn[row].tolist()]
            assert reward[row].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_model_that_no_row_needs_gives_zeros(compiled) -> None:
    decoder = compiled("base | rerank(rm + b*rm2, k=2)", params={"b": 0.0})
    _, rewarder = begun(decoder)
    assert len(rewarder.lanes) == 1
    rewards, of_texts = along(rewarder, [1, 1, 1]).rewards(torch.tensor([[5, 6], [7, 8], [9, 4]]))
    assert rewards[0].all() and of_texts[0] is not None and of_texts[0].all()
    assert rewards[1].tolist() == [[0, 0]] * 3
    assert of_texts[1] is not None and of_texts[1].tolist() == [0] * 3


def test_rewards_of_text_are_cut_by_the_formulas_tokens(tmp_path) -> None:
    """A label of three, read of text in other tokens; the same at a step of each position."""
    base = language(tmp_path / "base", "byte_level")
    rm = judge(tmp_path / "rm", "llama", "words", num_labels=3)
    decoder = descant.compile("base | rerank(rm, k=3, label=1)", {"base": base, "rm": rm})
    _, rewarder = begun(decoder)
    starts = {number: lane.rows.counts()[1] for number, lane in rewarder.lanes.items()}
    drafts = [[70, 71], [80], [60, 61, 62, 63]]
    drawn = torch.arange(30, 60).view(10, 3)
    rewrite(rewarder, drafts, starts)
    positions = along(rewarder, [3, 2, 5])
    [lane], asked = rewarder.lanes.values(), list[int]()
    encoded = lane._encoded
    lane._encoded = lambda texts: asked.extend(map(len, texts)) or encoded(texts)
    [rewards], [of_texts] = positions.rewards(drawn)
    assert of_texts is not None
    [counts] = {tuple((3, 2, 5)[slot] for slot in rewarder.owners[n].tolist()) for n in starts}
    assert all(n <= 4 * count for n, count in zip(asked, counts, strict=True)), "and no more"
    for ahead in range(5):
        texts = [draft[:ahead] for draft in drafts]
        rewrite(rewarder, texts, starts)
        rows = [int(((positions.owner == slot) & (positions.ahead == min(ahead, len(draft))))
                    .nonzero()) for slot, draft in enumerate(drafts)]  # fmt: skip
        [expected], [text] = rewarder.rewards(drawn[rows])
        assert torch.allclose(rewards[rows], expected, atol=2e-4)
        assert text is not None and torch.allclose(of_texts[rows], text, atol=2e-4)


def test_forwards_are_counted_and_nothing_is_kept(compiled) -> None:
    decoder = compiled("base | rerank(rm, k=2)")
    _, rewarder = begun(decoder)
    [lane] = rewarder.lanes.values()
    texts, step = lane.rows.all_texts(), decoder.session.engine.step
    before = sum(step.forwards)
    positions = along(rewarder, [1, 1, 1])
    run = list[tuple[int, ...]]()
    hooked = lane.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: run.append(tuple(args[0].shape))
    )
    positions.rewards(torch.tensor([[5, 6], [7, 8], [9, 4]]))
    hooked.remove()
    assert run == [(3 * (1 + 2), 1)], "each text's last token, and its candidates"
    positions.keep(torch.zeros(3, dtype=torch.long), torch.tensor([5, 7, 9]))
    assert sum(step.forwards) == before + 1 and lane.rows.all_texts() == texts
