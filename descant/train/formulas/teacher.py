"""A formula as a teacher: the answers that it draws, and its distributions along them.

The answers of a training lie in its folder, one line each, so that one that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ... import disk
from ...errors import StateError
from ...inputs.runfile import read_run_file
from ...models.checkpoint.description import Description
from ...runs.run import compiled, of_one_formula
from ...runtime.loops.distributions import distributions
from ..examples import Example
from ..trainfile import TrainFileError

ANSWERS = "answers.jsonl"
AT_ONCE = 64  # prompts that are answered between two writes


class Teacher:
    """The formula of a run file, whose ``generate`` says how it draws, each answer by a seed more.

    Args:
        path: the run file.
        formula: the name of one of its formulas, where there are several.

    Raises:
        RunFileError, FormulaError, ModelError: as ``descant run``.
    """

    def __init__(self, path: str, formula: str | None = None) -> None:
        self.run = of_one_formula(read_run_file(path), formula)
        self.decoder = compiled(self.run)

    def check(self, student: Description) -> None:
        """Refuse a student that has other tokens: there is no divergence between the two.

        Raises:
            TrainFileError: says so.
        """
        own, other = self.decoder.tokenizer, student.tokenizer
        if own is None or own.get_vocab() != other.get_vocab():
            problem = f"{student.name} has other tokens than the teacher {self.run.named}"
            raise TrainFileError(f"{problem}; say loss: sft, which learns its texts")

    def answer(
        self, examples: Sequence[Example], file: Path, quiet: bool, say: Callable[[str], None]
    ) -> list[Example]:
        """The examples with an answer each: their own, or one that is drawn and kept in a file.

        Raises:
            DiskError: the answers cannot be written.
        """
        asked = [number for number, example in enumerate(examples) if not example.chosen]
        known = list[dict[str, Any]]()
        if file.is_file():
            known = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
            say(f"{len(known)} answers were drawn before")
        settings = self.run.generate.model_dump() | {"progress": False}
        seed = settings.pop("seed") or 0
        rest = asked[len(known) :]
        with tqdm(total=len(rest), desc="answers", disable=quiet, leave=False) as bar:
            for first in range(0, len(rest), AT_ONCE):
                numbers = rest[first : first + AT_ONCE]
                prompts = [examples[number].prompt for number in numbers]
                seeds = [seed + number for number in numbers]  # one noise would draw alike
                answers = self.decoder.generate(prompts, seed=seeds, **settings)
                if len(answers) != len(numbers):
                    raise StateError("num_return_sequences is for runs; a teacher answers once")
                known += [{"text": each.text, "token_ids": each.token_ids} for each in answers]
                disk.replace(file, "".join(json.dumps(line) + "\n" for line in known))
                bar.update(len(numbers))
        answered = [*examples]
        for number, line in zip(asked, known, strict=True):
            answered[number] = replace(
                examples[number], chosen=line["text"], token_ids=tuple(line["token_ids"])
            )
        return answered

    def logprobs(self, prompts: Sequence[Any], completions: Sequence[Sequence[int]]) -> Tensor:
        """``(tokens, V)`` float32 log-probabilities before each token, answer after answer.

        Raises:
            FormulaError: NaN, or a position where every token is excluded.
        """
        session = self.decoder.session
        rows = session.builder.rows(list(prompts), None)
        requests = [
            session.builder.request(number, *row, max_new_tokens=len(ids), strict=True)
            for number, (row, ids) in enumerate(zip(rows, completions, strict=True))
        ]
        return torch.cat(distributions(session.engine, requests, completions))
