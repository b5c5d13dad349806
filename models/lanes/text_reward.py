"""Reward models that read text: what was written, decoded, and encoded by their own tokenizer.

What a reward reads is always the whole text, encoded anew: a token more can change how what is
before it is cut. What is run again is another question. A causal classifier runs the tokens that
differ from those in its cache (``CachedTextLane``), any other the whole of every text.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cache.rows import Join, Rows
from ..checkpoint.description import Description
from ..errors import ModelError
from ..text.prompts import Rendered
from .batch_classifier import BatchClassifier, Encoding, usable
from .footprint import Footprint, weights_footprint
from .token_tree import TokenTreeLane


class TextRewardLane:
    """A lane over a classifier that reads whole texts, every candidate's at every step.

    Args:
        model: on its device.
        card: what is known of it; its own tokenizer.
        shared: the tokenizer of the formula's tokens.
    """

    steady = False

    def __init__(self, model: Any, description: Description, shared: Any) -> None:
        self.model, self.description, self._written = model, description, Continuation(shared)
        self._positions = usable(model, description.positions)
        self._reader = self._made()
        self.adapters, self.device = self._reader.adapters, self._reader.device
        self.reserve(0, 0)

    def _made(self) -> Any:
        return BatchClassifier(
            self.description.name, self.model, self.description.tokenizer, self.description.whole
        )

    @property
    def rows(self) -> Rows:
        """The rows in use; their texts are the responses alone, in the formula's tokens."""
        return self._rows

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows, empty."""
        self._rows = Rows(rows, capacity, self.device)
        self._prompts: list[str] = []

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for longer answers and for more rows, and keep those there are."""
        self._rows.grow(capacity, rows)

    def admit(self, prompts: Sequence[str], adapters: Sequence[int]) -> Generator[int, None, Join]:
        """Take rendered prompts, as text, into new rows."""
        read = yield from self._read(prompts, adapters)

        def join() -> Sequence[int]:
            numbers = read()
            order = sorted(range(len(prompts)), key=numbers.__getitem__)
            nothing: list[list[int]] = [[] for _ in prompts]
            self._rows.admit(nothing, [0] * len(prompts), [adapters[i] for i in order])
            self._prompts += [prompts[i] for i in order]
            return numbers

        return join

    def _read(self, prompts: Sequence[str], adapters: Sequence[int]) -> Generator[int, None, Join]:
        """Read prompts where anything is cached, and say the numbers of their rows."""
        yield from ()
        return lambda: range(self._rows.count, self._rows.count + len(prompts))

    def release(self, row: int) -> int:
        """Give a row up; the last row takes its place."""
        last = self._rows.release(row)
        self._prompts[row] = self._prompts[last]
        self._prompts.pop()
        return last

    @torch.no_grad()
    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """``(rows, k)`` candidates to ``(rows, k, labels)`` rewards, and those of the texts."""
        texts: list[list[str]] = []
        which: list[int] = []
        before, ends = 0, self._rows.counts()[1]
        responses, options = self._rows.texts[: len(ends)].tolist(), candidates.tolist()
        for prompt, ids, end, row in zip(self._prompts, responses, ends, options, strict=True):
            said = self._written.all(ids[:end], row)
            distinct = {text: i for i, text in enumerate(dict.fromkeys(said))}
            which += [before + distinct[text] for text in said]
            before += len(distinct)
            texts.append([rendered(prompt, text) for text in distinct])
        outputs = self._outputs(self._encoded(texts))[which]
        outputs = outputs.view(len(texts), candidates.shape[1] + 1, -1)
        return outputs[:, 1:], outputs[:, 0]

    def _outputs(self, texts: Sequence[Sequence[Encoding]]) -> Tensor:
        """``(texts, labels)`` of every row's texts, row after row."""
        adapters = self._rows.adapters[: len(texts)].tolist()
        numbers = [number for number, some in zip(adapters, texts, strict=True) for _ in some]
        outputs: Tensor = self._reader.outputs([one for some in texts for one in some], numbers)
        return outputs

    def _encoded(self, rows: Sequence[Sequence[str]]) -> list[list[Encoding]]:
        """Every row's texts as the tokenizer gives them to the model.

        Raises:
            ModelError: a text is longer than the model reads, or no token at all.
        """
        texts = [text for some in rows for text in some]
        found = encoded(self.description.tokenizer, texts)
        for text, one in zip(texts, found, strict=True):
            length = len(one["input_ids"])
            if length == 0 or (self._positions and length > self._positions):
                what = f"has {length} tokens by now, and it reads at most {self._positions}"
                raise ModelError(
                    f"the text that {self.description.name} reads "
                    f"{what if length else 'is empty'}: {text[:40]!r}…",
                    "shorten the prompt or give fewer max_new_tokens; nothing is cut silently"
                    if length
                    else "give it a prompt, or a tokenizer with a token that begins a text",
                    self.description.name,
                )
        left = iter(found)
        return [[next(left) for _ in some] for some in rows]

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row what its source was."""
        self._rows.copy(sources, targets)
        copied = [self._prompts[source] for source in sources]
        for target, prompt in zip(targets, copied, strict=True):
            self._prompts[target] = prompt

    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens that each row goes on with."""
        self._rows.feed(tokens)

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """The same: the winner's text is encoded anew at the next step."""
        self._rows.feed(tokens)

    def path(self, candidates: str) -> str:
        """How it is asked about them, for the plan."""
        return f"text, the whole text of {candidates}, nothing cached ({self.description.whole})"

    def footprint(self) -> Footprint:
        """The weights. What a forward works in is unknown: texts are of any length."""
        return weights_footprint(self.model, self.adapters)

    def shape(self, ahead: int) -> Hashable:
        """Texts are encoded anew, so that nothing is decided beforehand."""
        return None


class CachedTextLane(TextRewardLane):
    """A lane over a causal classifier that runs what its cache does not hold of each text."""

    def _made(self) -> TokenTreeLane:
        return TokenTreeLane(self.model, self.description.size, reads_all=True)

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows; those of its own tokens are widened as they grow."""
        super().reserve(rows, capacity)
        self._reader.reserve(rows, capacity)

    def _read(self, prompts: Sequence[str], adapters: Sequence[int]) -> Generator[int, None, Join]:
        ids = [one["input_ids"] for [one] in self._encoded([[prompt] for prompt in prompts])]
        self._reader.widen(max(map(len, ids)))
        join: Join = yield from self._reader.admit(ids, adapters)
        return join

    def release(self, row: int) -> int:
        """Give a row up; the last row takes its place."""
        self._reader.release(row)
        return super().release(row)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row, text and cache, what its source was."""
        super().copy_rows(sources, targets)
        self._reader.copy_rows(sources, targets)

    def _outputs(self, texts: Sequence[Sequence[Encoding]]) -> Tensor:
        outputs: Tensor = self._reader.outputs(
            [[one["input_ids"] for one in some] for some in texts]
        )
        return outputs

    def path(self, candidates: str) -> str:
        """How it is asked about them, for the plan."""
        asked, read = self._reader.asked, self._reader.read
        about = f", about {read / asked:.0f} tokens a row in all," if asked else ""
        return f"text, the changed tail of {candidates}{about} over the cached prefix"

    def footprint(self) -> Footprint:
        """The weights, and the cache of the model's own tokens."""
        footprint: Footprint = self._reader.footprint()
        return replace(footprint, work=())


class Continuation:
    """The text of tokens that go on from a prompt, as a tokenizer writes them.

    A decoder that drops the space before the first word of a text would drop it between prompt and
    response, so that tokens are decoded behind a letter. Special tokens are no text; what is not a
    whole character yet is U+FFFD until it is.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        letter = list(tokenizer.encode("a", add_special_tokens=False))
        self._letter = letter if self._decoded(letter) else []
        self._skipped = self._decoded(self._letter)

    def all(self, ids: list[int], options: Sequence[int]) -> list[str]:
        """The text of the tokens, and of them and each of the options."""
        return [self._text(ids), *(self._text([*ids, option]) for option in options)]

    def _text(self, ids: list[int]) -> str:
        text = self._decoded([*self._letter, *ids])
        return text.removeprefix(self._skipped) if self._letter else text

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def rendered(prompt: str, text: str) -> str:
    """A prompt and what follows it, which is encoded as the prompt is."""
    return Rendered(prompt + text, getattr(prompt, "special", True))


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[Encoding]:
    """Each text as a tokenizer gives it to its model: special tokens once, and nothing cut.

    A text of no token is the one with which texts begin, or end, where the tokenizer has one.
    """
    found: list[Encoding] = [{}] * len(texts)
    for special in (True, False):
        some = [i for i, text in enumerate(texts) if getattr(text, "special", True) == special]
        if not some:
            continue
        said = tokenizer([str(texts[i]) for i in some], add_special_tokens=special, verbose=False)
        for place, i in enumerate(some):
            one = {key: values[place] for key, values in said.items()}
            found[i] = _once(tokenizer, one, special)
    return found


def _once(tokenizer: Any, one: Encoding, special: bool) -> Encoding:
    """Without a second token of those that begin a text, where the text brought its own."""
    begins = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    ids = one["input_ids"]
    if not ids:
        start = next((i for i in (*sorted(begins), tokenizer.eos_token_id) if i is not None), None)
        return one if start is None else {"input_ids": [start], "attention_mask": [1]}
    if special and len(ids) > 1 and ids[0] == ids[1] and ids[0] in begins:
        return {key: values[1:] for key, values in one.items()}
    return one
