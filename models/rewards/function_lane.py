"""Answers to a Python function: one call for the candidates of all rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import ModelError
from ..footprint import Footprint
from ..functions import FunctionReward, UserPrompt, WrongCount
from .answer_lane import AnswerLane

AnswerTo: TypeAlias = tuple[Any, list[int], str]  # a prompt, the answer's tokens and its text


class FunctionLane(AnswerLane):
    """A lane without weights: a function gives the rewards of its rows' answers.

    Args:
        name: as declared.
        function: the reward.
        shared: the tokenizer of the formula's tokens.
        device: where rewards are wanted.
        scores_texts: whether the rewards of texts without a candidate are wanted beside theirs.
    """

    why_eager = "it calls a Python function"

    def __init__(
        self,
        name: str,
        function: FunctionReward,
        shared: Any,
        device: torch.device,
        scores_texts: bool,
    ) -> None:
        self.name, self.function, self._scores_texts = name, function, scores_texts
        super().__init__(shared, device)

    def rewards_along(
        self, candidates: Tensor, after: Tensor, most: int
    ) -> tuple[Tensor, Tensor | None]:
        """NaN where the function fails, whose prompt then has the ``failure``."""
        first = 0 if self._scores_texts or not candidates.shape[-1] else 1
        by_ids = "completion_ids" in self.function.takes
        numbers: dict[Hashable, int] = {}  # of the distinct answers
        answers: list[AnswerTo] = []
        uses: list[tuple[UserPrompt, int]] = []
        for prompt, positions, _ in self._answers(candidates, after):
            for ids, text in (answer for position in positions for answer in position[first:]):
                key = id(prompt.prompt), tuple(ids) if by_ids else text
                if key not in numbers:
                    numbers[key] = len(answers)
                    answers.append((prompt.prompt, ids, text))
                uses.append((prompt, numbers[key]))
        rewards, values = self._of(answers), list[float]()
        for prompt, number in uses:
            reward = rewards[number]
            if isinstance(reward, ModelError):
                prompt.failure = prompt.failure or reward
            values.append(math.nan if isinstance(reward, ModelError) else reward)
        outputs = torch.tensor(values, dtype=torch.float32, device=self.device)
        outputs = outputs.view(*candidates.shape[:2], candidates.shape[2] + 1 - first, 1)
        return (outputs, None) if first else (outputs[:, :, 1:], outputs[:, :, 0])

    def _of(self, answers: Sequence[AnswerTo]) -> Sequence[float | ModelError]:
        """The rewards of distinct answers, or errors.

        Where the function raises something, it is called once more for each prompt, so that no
        other is lost.
        """
        if not answers:
            return []
        try:
            prompts, ids, texts = zip(*answers, strict=True)
            return self.function.rewards(self.name, prompts, texts, ids)
        except ModelError as error:
            own: dict[int, list[int]] = {}  # the answers to each prompt
            for i, (prompt, *_) in enumerate(answers):
                own.setdefault(id(prompt), []).append(i)
            rewards: list[float | ModelError] = [error] * len(answers)
            if len(own) > 1 and not isinstance(error, WrongCount):
                for rows in own.values():
                    each = self._of([answers[i] for i in rows])
                    for i, reward in zip(rows, each, strict=True):
                        rewards[i] = reward
            return rewards

    def plan_line(self, candidates: str) -> str:
        return f"Python function {self.function.name}, one call for all rows: {candidates}"

    def footprint(self) -> Footprint:
        """Nothing: what the function takes is its own."""
        return Footprint(0)
