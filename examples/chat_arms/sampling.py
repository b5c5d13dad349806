"""The answers that preferences are made of: the chat model's own, asked in several ways.

It decodes; what is preferred is not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

import descant
from examples.chat_arms.rules import Answer

HERE = Path(__file__).resolve().parent
ASKED = (  # no way of asking is seen in training, nor when an arm is used
    "{}",
    "{} Answer in a paragraph, without a list.",
    "{} Answer in one short sentence.",
    "List: {} Use bullet points.",
    "{} Give five points as a numbered list.",
)
FORMULA = "smol | top_p(0.95)"
TEMPERATURE = 0.8
TOKENS = 76  # more than a training row reads
SLOTS, CHUNK = 128, 250  # rows decoded at once, and between two writes


def questions(name: str) -> list[str]:
    """The questions of `questions.txt` or `held_out.txt`."""
    return (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def sample(model: str, asked: Sequence[str], file: Path, seed: int, dtype: str) -> list[Answer]:
    """Answer every question in every way, and keep the answers in a file.

    An answer depends on its question, its way of asking and the seed, not on its batch; a file
    that holds some of them already is gone on with.
    """
    rows = [(question, way.format(question)) for question in asked for way in ASKED]
    answers = _read(file)
    decoder = descant.compile(FORMULA, {"smol": {"path": model, "dtype": dtype}})
    with file.open("a", encoding="utf-8") as out, tqdm(total=len(rows), unit="answer") as bar:
        bar.update(len(answers))
        for start in range(len(answers), len(rows), CHUNK):
            batch = rows[start : start + CHUNK]
            completions = decoder.generate(
                [[{"role": "user", "content": text}] for _, text in batch],
                max_new_tokens=TOKENS, temperature=TEMPERATURE, batch_size=SLOTS,
                seed=[seed + start + row for row in range(len(batch))],
            )  # fmt: skip
            for (question, _), done in zip(batch, completions, strict=True):
                text = (done.text or "").strip()
                answers.append(Answer(question, text, done.finish_reason != "length"))
                out.write(json.dumps(asdict(answers[-1]), ensure_ascii=False) + "\n")
            out.flush()
            bar.update(len(batch))
    return answers


def _read(file: Path) -> list[Answer]:
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Answer(**json.loads(line)) for line in lines]
