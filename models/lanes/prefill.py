"""Reading prompts: what was read before is shared, and each other token is read once, in chunks.

Prompts get blocks of memory beyond the rows in use when they are admitted. Those that begin alike
are read in turn, so that the second finds what the first has read.

Where the texts of a forward end at one place, its last position is all that the head is needed for,
and the first step runs no forward. What follows the texts is dropped as soon as one of them changes
(``Rows.next_logits``): a step then reads the last token again, as any other.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import signature
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..cache.blocks.block_lane import BlockLane
from ..cache.rows import Join
from ..cache.window import Window
from ..combinations import Chosen, Combination, parts_of
from ..errors import ModelError
from ..images.prompt import ImagePrompt
from ..upload import Changes, staged, upload

Pair: TypeAlias = tuple[tuple[int, ...], Combination]  # a prompt, and what its row adds
MIXED = 256  # prompt tokens that are read in the forward of rows that decode, at most
CHUNK = 2048  # prompt tokens of all rows in one forward
PADDING = 512  # tokens of padding in one forward; with more, there are two
ALIKE = 64  # tokens that two prompts begin with alike; with more, one is read before the other


class _Group(NamedTuple):
    """Prompts that are read in one forward, from one position on, the longest first.

    Attributes:
        texts: ``(n, longest)`` token ids from there on, with zeros after the end of each.
        lengths: ``(n,)`` of the whole texts, and ``slots``, of their combinations.
        tables: as of the blocks.
    """

    prompts: Sequence[_Prompt]
    texts: Tensor
    lengths: Tensor
    slots: Tensor
    tables: Tensor


@dataclass(eq=False)
class _Prompt:
    """A prompt that is being read.

    Attributes:
        ids: its tokens, and ``combination``, what its row adds to the weights.
        block: where its keys and values go.
        cached: how many of its tokens were read before; -1 as long as nobody has looked.
        read: how many have been read now, with those.
    """

    ids: tuple[int, ...]
    combination: Combination
    block: Any
    cached: int = -1
    read: int = 0

    @property
    def pair(self) -> Pair:
        return self.ids, self.combination


class PrefillLane(BlockLane):
    """A lane's way into its rows.

    Attributes:
        pads: whether prompts of unlike lengths may be read in one forward.
        mixes: whether what is left of prompts may be read by the next step, if it ``is_ragged``.
    """

    pads = True
    mixes = True
    _unsent: Changes | tuple[()] = ()  # what is to be read first, on its way to the device
    _unkept: Sequence[tuple[Any, int]] = ()  # blocks that others may share, once so much is read

    def admit(
        self, prompts: Sequence[Sequence[int]], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        """Take room for prompts of a token at least; what reads each text once.

        Raises:
            OutOfPages: there is none for all of them.
            ModelError: images, and a model that reads longer texts again.
        """
        if self._limits and any(each.images for each in combinations):
            problem = "its keys are others in longer texts, and images are read once"
            raise ModelError(problem, "give the prompt without images")
        texts = map(tuple, prompts)
        pairs: list[Pair] = [*zip(texts, combinations, strict=True)]
        distinct = sorted(dict.fromkeys(pairs), key=lambda pair: -len(pair[0]))
        try:
            made = [_Prompt(*pair, self.blocks.make(*pair)) for pair in distinct]
        except BaseException:
            self.discard()
            raise
        return self._read(pairs, made, *self._next(made))

    def discard(self) -> None:
        self._unsent = ()
        super().discard()

    def changes(self) -> Changes:
        unsent, self._unsent = self._unsent, ()
        return [*super().changes(), *unsent]

    def _read(
        self,
        pairs: Sequence[Pair],
        prompts: Sequence[_Prompt],
        groups: Sequence[_Group],
        waiting: Sequence[_Prompt],
    ) -> Generator[int, None, Join]:
        """Read prompts, saying before each forward how many tokens it reads."""
        logits: dict[Pair, Tensor] | None = None
        if self._gives_logits and not self.rows.count:
            logits = {}
        while groups:
            if len(pairs) == len(prompts) and self._left_to_step(groups, waiting):
                logits = None
                break
            if not all(len({len(each.ids) for each in group.prompts}) == 1 for group in groups):
                logits = None
            for group in groups:
                yield from self._prefill(group, logits)
            groups, waiting = self._next(waiting)
        return partial(self._join, pairs, prompts, logits)

    def _next(self, prompts: Sequence[_Prompt]) -> tuple[list[_Group], Sequence[_Prompt]]:
        """Those of these prompts that are read now, in groups; and those that wait for them."""
        most = -self.rows.pending or None
        known = [self.blocks.known(prompt.block, prompt.ids[:most]) for prompt in prompts]
        now, waiting = _in_turn(prompts, known) if self.blocks.shares else ([*prompts], [])
        now.sort(key=lambda prompt: (prompt.cached, -len(prompt.ids)))
        for prompt in now:
            prompt.cached = self.blocks.share(prompt.block, prompt.ids[:most])
            prompt.block.cached = prompt.cached
        return [self._group(prompts) for prompts in self._grouped(now)], waiting

    def _left_to_step(self, groups: Sequence[_Group], waiting: Sequence[_Prompt]) -> bool:
        """Leave what is unread of prompts to the next step, if it is little and others decode."""
        if waiting or not (self.is_ragged and self.mixes and self.rows.count):
            return False
        prompts = [prompt for group in groups for prompt in group.prompts]
        unread = sum(len(prompt.ids) - prompt.cached for prompt in prompts)
        before = sum(map(int.__sub__, *reversed(self.rows.counts())))
        images = any(prompt.combination.images for prompt in prompts)
        if unread + before > min(MIXED, CHUNK) or images:
            return False
        for prompt in prompts:
            prompt.read = prompt.cached
        blocks = ((prompt.block, len(prompt.ids) - self.rows.pending) for prompt in prompts)
        self._unkept, self._unsent = [*self._unkept, *blocks], ()
        return True

    def _grouped(self, prompts: Sequence[_Prompt]) -> list[list[_Prompt]]:
        """Prompts that are read in one forward."""
        return _groups(prompts, PADDING * self.pads)

    def _chunk(self, prompts: int) -> int:
        """Tokens that each of so many prompts reads in one forward."""
        return max(1, CHUNK // prompts)

    def _group(self, prompts: Sequence[_Prompt]) -> _Group:
        """What a forward reads, which ``changes`` brings to the device."""
        first = prompts[0].cached
        on_host = (
            _padded([prompt.ids[first:] for prompt in prompts]),
            torch.tensor([len(prompt.ids) for prompt in prompts]),
            torch.tensor([prompt.combination.slot for prompt in prompts]),
            self.blocks.tables([prompt.block for prompt in prompts]),
        )
        on_device, changes = staged(self.device, *on_host)
        self._unsent = [*self._unsent, *changes]
        return _Group(prompts, *on_device)

    @cached_property
    def _gives_logits(self) -> bool:
        """Whether the forwards that read prompts can give what the first step needs."""
        return not self._reads_all and not self._limits and gives_logits(self.model)

    def _prefill(self, group: _Group, logits: dict[Pair, Tensor] | None) -> Iterator[int]:
        """Read prompts.

        Args:
            logits: gets ``(V,)`` what follows each; they have one length. Where it is None, the
                next step reads their last tokens.
        """
        prompts, texts, lengths, slots, tables = group
        first, unread = prompts[0].cached, self.rows.pending if logits is None else 0
        longest = len(prompts[0].ids) - unread
        blocks = [prompt.block for prompt in prompts]
        if self._unsent:
            upload(self.changes())  # where nobody has collected them before
        combinations = [prompt.combination for prompt in prompts]
        parts = parts_of(combinations)
        chosen = Chosen(slots, parts, combinations) if parts else None
        live = self.rows.pages > 0 and self.live.takes_chunks
        images = prompts[0].combination.images or ()  # which are read at once
        for start, end in self._spans(prompts, first, longest):
            chunk = texts[:, start - first : end - first]
            yield chunk.numel()
            positions = torch.arange(start, end, device=self.device).expand(chunk.shape)
            by_lengths = live and start >= len(images)
            window = Window(positions, end, start=start, tables=tables, live=by_lengths)
            window = self.blocks.window(window, blocks)
            what = chunk, positions, window, chosen
            options: dict[str, Any] = {"lengths": lengths, "slots": slots}
            if start < len(images):
                options["images"] = images
            if logits is None or end < longest:
                self._forward(*what, backbone=True, **options)
            else:
                out = self._forward(*what, backbone=False, **options, logits_to_keep=1)
                last = out.logits[:, -1, : self.width].float()
                logits |= {prompt.pair: row for prompt, row in zip(prompts, last, strict=True)}
            self._pass(prompts, end)
        for prompt in prompts:
            prompt.read = len(prompt.ids) - unread
            self.blocks.keep(prompt.block, prompt.ids[: prompt.read])

    def _spans(self, prompts: Sequence[_Prompt], first: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts that prompts are read in, from one position up to another."""
        size, images = self._chunk(len(prompts)), len(prompts[0].combination.images or ())
        if first < images:  # with all of them
            yield first, min(images, end)
        for start in range(max(first, images), end, size):
            yield start, min(start + size, end)

    def _pass(self, prompts: Sequence[_Prompt], end: int) -> None:
        """Prompts have been read up to a position."""

    @property
    def is_ragged(self) -> bool:
        """Whether forwards may read unlike numbers of tokens of their rows."""
        return False

    @property
    def width(self) -> int:
        """Columns of the logits, and of what heads give."""
        raise NotImplementedError

    @torch.no_grad()
    def _join(
        self,
        pairs: Sequence[Pair],
        prompts: Sequence[_Prompt],
        logits: dict[Pair, Tensor] | None,
    ) -> list[int]:
        """Put rows in use: one for each prompt that was read, then those that repeat one.

        Args:
            logits: what follows each prompt, where it is known and nobody else has a row.
        """
        of_block = {id(prompt.block): prompt for prompt in prompts}
        of_prompt = {prompt.pair: prompt for prompt in prompts}
        blocks = self.blocks.join([prompt.block for prompt in prompts])
        read = [of_block[id(block)].pair for block in blocks]
        numbers = self._admitted(read, [of_block[id(block)].read for block in blocks])
        rows, repeats, unused = list[int](), list[Pair](), dict(zip(read, numbers, strict=True))
        of_pair = dict(unused)
        for pair in pairs:
            if pair in unused:
                rows.append(unused.pop(pair))
            else:
                rows.append(numbers.stop + len(repeats))
                repeats.append(pair)
        if repeats:
            self._admitted(repeats, [of_prompt[pair].read for pair in repeats])
            self.blocks.fork([of_pair[pair] for pair in repeats])
            for block, (ids, _) in zip(self.blocks.held[numbers.stop :], repeats, strict=True):
                block.cached = len(ids) * self.blocks.shares  # it is read once for all
        if logits is not None and all(len(each) == self.width for each in logits.values()):
            self.rows.next_logits = of_rows(logits, pairs, rows)  # else a head came meanwhile
        return rows

    def _admitted(self, pairs: Sequence[Pair], read: Sequence[int]) -> range:
        """The numbers of new rows, whose texts were read so far."""
        texts, combinations = zip(*pairs, strict=True)
        return self.rows.admit(texts, read, combinations)

    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        window: Window,
        chosen: Chosen | None,
        backbone: bool,
        lengths: Tensor | None = None,
        slots: Tensor | None = None,
        images: ImagePrompt | None = None,
        **options: Any,
    ) -> Any:
        """One forward of a window's rows: with the head, or of the backbone alone.

        Args:
            slots: of the rows' combinations.
            images: a prompt with images, which the forward reads alone, from its first token on.
        """
        raise NotImplementedError


def _in_turn(
    prompts: Sequence[_Prompt], known: Sequence[int]
) -> tuple[list[_Prompt], list[_Prompt]]:
    """Prompts to read now, and those that wait since one of these begins as they do.

    Args:
        known: how many tokens of each were read before. One that has waited for nothing is read.
    """
    now, later, begun = list[_Prompt](), list[_Prompt](), set[Hashable]()
    for prompt, cached in zip(prompts, known, strict=True):
        grown, prompt.cached = cached > prompt.cached, cached
        shared = prompt.ids[: prompt.combination.shared]
        beginning = shared[: cached + ALIKE], prompt.combination.key
        if grown and beginning in begun and len(shared) > cached + ALIKE:
            later.append(prompt)
        else:
            begun.add(beginning)
            now.append(prompt)
    return now, later


def _groups(prompts: Sequence[_Prompt], most: int) -> list[list[_Prompt]]:
    """Prompts that are read in one forward: from one position on, with so much padding at most.

    One with images is read alone.
    """
    groups, padding = list[list[_Prompt]](), 0
    for prompt in prompts:
        first = groups[-1][0] if groups else prompt
        padding += len(first.ids) - len(prompt.ids)
        alone = bool(prompt.combination.images or first.combination.images)
        if not groups or alone or prompt.cached != first.cached or padding > most:
            groups.append([])
            padding = 0
        groups[-1].append(prompt)
    return groups


def _padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """``(n, longest)`` token ids, with zeros after the end of each."""
    longest = max(map(len, texts))
    return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts], dtype=torch.long)


def gives_logits(model: Any) -> bool:
    """Whether a model has a head of a language model that reads some positions alone."""
    if model.get_output_embeddings() is None:
        return False
    return "logits_to_keep" in signature(model.forward).parameters


def of_rows(logits: Mapping[Pair, Tensor], prompts: Sequence[Pair], rows: Sequence[int]) -> Tensor:
    """``(rows, V)`` what follows each row's text.

    Args:
        logits: ``(V,)`` after each prompt.
        prompts: of all rows, and ``rows`` their numbers, from 0 on.
    """
    of_row = dict(zip(rows, prompts, strict=True))
    return torch.stack([logits[of_row[row]] for row in range(len(rows))])
