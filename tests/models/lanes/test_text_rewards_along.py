"""Rewards of decoded text at several positions: each is that of the text alone, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from judges import alone, by_itself, judge, language, written
from test_rewards_along import admit, padded
from torch import Tensor
from transformers import AutoTokenizer

import descant
from descant.models.rewards.text_lane import CachedTextLane

PROMPTS = ["the river goes", "a 好", "def add(one, two): return one"]
DRAFT = " on to the riverside 🙂."
CASES = [("llama", "sentences", 1), ("gpt2", "words", 1), ("bert", "words", 3)]


class Texts:
    """A lane of a reward model that reads text, and what the model says of each text alone.

    Attributes:
        asked: texts of each call of the model.
        forwards: rows of each forward.
    """

    def __init__(self, folder: Path, family: str, tokens: str, labels: int) -> None:
        base, self.labels = language(folder / "base", "byte_level"), labels
        self.rm = judge(folder / "rm", family, tokens, num_labels=labels)
        self.alone = by_itself if family == "bert" else alone
        self.own = AutoTokenizer.from_pretrained(base)
        label = f", label={labels - 1}" if labels > 1 else ""
        formula, models = f"base | rerank(rm, k=3{label})", {"base": base, "rm": self.rm}
        self.lane: Any = descant.compile(formula, models, device="cpu").session.bound.lanes[1]
        assert isinstance(self.lane, CachedTextLane) == (family != "bert")
        self.lane.reserve(3, 64)
        self.prompts = admit(self.lane, PROMPTS)
        self.asked: list[int] = []
        self.forwards: list[int] = []
        outputs = self.lane._outputs

        def counted(rows: Sequence[Any]) -> Tensor:
            self.asked.append(sum(map(len, rows)))
            return outputs(rows)

        self.lane._outputs = counted
        self.lane.model.get_input_embeddings().register_forward_hook(
            lambda module, args, output: self.forwards.append(len(args[0]))
        )

    def expected(self, row: int, ids: Sequence[int]) -> Tensor:
        prompt = str(self.prompts[row])
        return self.alone(self.rm, prompt + written(self.own, self.own(prompt)["input_ids"], ids))

    def check_text(self, row: int, ids: list[int], options: list[int], found: Any) -> set[str]:
        """One position; the texts that were asked about."""
        rewards, of_text = found
        assert torch.allclose(of_text, self.expected(row, ids), atol=2e-4)
        for reward, one in zip(rewards, options, strict=True):
            assert torch.allclose(reward, self.expected(row, [*ids, one]), atol=2e-4)
        letter = self.own("a")["input_ids"]
        return {self.own.decode([*letter, *ids, *one], skip_special_tokens=True)
                for one in ([], *([one] for one in options))}  # fmt: skip

    def check(self, texts: list[list[int]], counts: list[int], candidates: Any) -> None:
        """The last positions of every text, ``counts`` of each."""
        after = padded([[*range(count)][::-1] for count in counts])
        drawn = padded([row[:count] for row, count in zip(candidates, counts, strict=True)])
        rewards, of_texts = self.lane.rewards_along(drawn, after, max(counts) - 1)
        assert rewards.shape == (*drawn.shape, self.labels)
        assert of_texts.shape == (*after.shape, self.labels)
        distinct = 0
        for row, ids in enumerate(texts):
            different = set[str]()
            for position, behind in enumerate(after[row].tolist()):
                found = rewards[row, position], of_texts[row, position]
                options, read = drawn[row, position].tolist(), ids[: len(ids) - behind]
                different |= self.check_text(row, read, options, found)
            distinct += len(different)
        assert self.asked == [distinct], "each text once, all in one call"
        self.asked.clear()
        assert self.lane.rows.all_texts() == texts


@pytest.mark.parametrize(("family", "tokens", "labels"), CASES)
def test_every_position_is_scored_as_its_text_alone(family, tokens, labels, tmp_path) -> None:
    """Some candidates are what was drafted: their texts are those up to the next position."""
    said = Texts(tmp_path, family, tokens, labels)
    draft = said.own(DRAFT, add_special_tokens=False)["input_ids"]
    texts = [draft[:5], draft[2:3], draft[3:11]]
    said.lane.rows.rewrite({row: (0, ids) for row, ids in enumerate(texts)})
    shape, generator = (3, 4, 3), torch.manual_seed(3)
    candidates = torch.randint(3, len(said.own), shape, generator=generator).tolist()
    candidates[0][1][0] = texts[0][3]
    said.check(texts, [4, 1, 3], candidates)
    if family != "bert":
        assert len(said.forwards) == 1 and said.lane._classifier.rows.all_texts() == [
            said.lane._encoded([[said.prompts[row] + said.own.decode(ids)]])[0][0]["input_ids"]
            for row, ids in enumerate(texts)
        ], "the cache has the longest text"
    kept = [[*texts[0][:3], draft[9]], [*texts[1], 40], [*texts[2][:7], draft[0]]]
    said.lane.rows.rewrite({row: (len(ids) - 1, ids[-1:]) for row, ids in enumerate(kept)})
    said.check(kept, [1, 2, 4], candidates)
    rewards, of_texts = said.lane.rewards(torch.tensor([row[0] for row in candidates]))
    for row, ids in enumerate(kept):
        said.check_text(row, ids, candidates[row][0], (rewards[row], of_texts[row]))
