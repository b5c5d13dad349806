"""A lane: one set of weights on one device with one key/value cache.

It steps rows and knows nothing of formulas: which row belongs to which request and term is the
runtime's business.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from .adapters import Adapters
from .attention import grouped
from .cache import RowCache, Window, rounded
from .masks import attention_masks
from .rows import Rows

Pair: TypeAlias = tuple[tuple[int, ...], int]  # a prompt and the number of its adapter
CHUNK = 8192  # prompt tokens of all rows in one prefill forward
PADDING = 512  # tokens of padding in one, rather than another forward


class Lane(Protocol):
    """What the runtime asks of a lane, whatever its weights are made of."""

    device: torch.device

    @property
    def rows(self) -> Rows:
        """The rows in use."""

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows of so many tokens, empty."""

    def grow(self, capacity: int) -> None:
        """Make room for longer texts, and keep those there are."""

    def admit(self, prompts: Sequence[Sequence[int]], adapters: Sequence[int]) -> list[int]:
        """Read prompts into new rows; their numbers."""

    def release(self, row: int) -> int:
        """Give a row up; the number of the row that took its place."""

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row, text and cache, what its source was."""

    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads."""

    def token_bytes(self) -> int:
        """Bytes of cache that one token of one row takes."""

    def held_bytes(self) -> int:
        """Bytes of cache that are allocated."""

    @property
    def steady(self) -> bool:
        """Whether a step does the same work on one device whatever the texts are."""

    def shape(self, ahead: int) -> Hashable:
        """What the host decides for a forward of rows that each read ``ahead`` tokens at most."""


class LanguageLane(Lane, Protocol):
    """A lane whose weights say what comes next."""

    def logits(self) -> Tensor:
        """Every row reads its pending token: ``(rows, V)`` logits of the next."""

    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens to be read at the next step."""


class RewardLane(Lane, Protocol):
    """A lane whose weights score what has been read."""

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """The reward of each row's text followed by each candidate, and of the text itself."""

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(rows,)`` which of the candidates each row goes on with, and the tokens themselves."""

    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens that each row goes on with, candidates or not."""


class TransformersLane:
    """A lane over a transformers model.

    Args:
        model: the model, on its device and in its dtype.
        vocabulary: logits beyond this id are cut.
        reads_all: the whole text is always in the cache (a reward model whose winner is moved);
            otherwise its last token waits for the next step, so that the first is like every other.
    """

    def __init__(self, model: Any, vocabulary: int, reads_all: bool) -> None:
        self.model, self.vocabulary, self._reads_all = model, vocabulary, reads_all
        self.config = model.config.get_text_config()
        weight = model.get_input_embeddings().weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.adapters = Adapters(model)
        self.reserve(0, 0)

    @property
    def rows(self) -> Rows:
        """The rows in use."""
        return self._rows

    @torch.no_grad()
    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows of so many tokens, empty."""
        self._rows = Rows(rows, capacity, self.device, waits=0 if self._reads_all else 1)
        self._cache = RowCache(rows, capacity)

    @torch.no_grad()
    def grow(self, capacity: int) -> None:
        """Make room for longer texts, and keep those there are."""
        self._rows.grow(capacity)
        self._cache.grow(capacity)

    @torch.no_grad()
    def admit(self, prompts: Sequence[Sequence[int]], adapters: Sequence[int]) -> list[int]:
        """Read prompts into new rows; their numbers.

        Args:
            prompts: token ids, at least one each.
            adapters: for each prompt, 0 or the number of an adapter.
        """
        pairs = [(tuple(ids), adapter) for ids, adapter in zip(prompts, adapters, strict=True)]
        distinct = sorted(dict.fromkeys(pairs), key=lambda pair: -len(pair[0]))
        cached = [len(ids) - self._rows.waits for ids, _ in distinct]
        new = self._rows.admit([ids for ids, _ in distinct], cached, [a for _, a in distinct])
        for alike in _alike(cached):
            rows = slice(new.start + alike.start, new.start + alike.stop)
            self._prefill(rows, cached[alike.start])
        return self._repeated(pairs, dict(zip(distinct, range(new.start, new.stop), strict=True)))

    def _prefill(self, rows: slice, longest: int) -> None:
        """Read the first tokens of some rows' texts, ``longest`` of the longest."""
        size = max(1, CHUNK // (rows.stop - rows.start))
        for start in range(0, longest, size):
            end = min(start + size, longest)
            chunk = self._rows.texts[rows, start:end]
            places = torch.arange(start, end, device=self.device).expand(chunk.shape)
            self._forward(chunk, places, places, rows, end, backbone=True)

    def _repeated(self, pairs: Sequence[Pair], first: Mapping[Pair, int]) -> list[int]:
        """A row for each prompt: the one that read it, then copies of that."""
        rows: list[int] = []
        again: list[Pair] = []
        free = dict(first)
        for pair in pairs:
            if pair in free:
                rows.append(free.pop(pair))
            else:
                rows.append(self._rows.count + len(again))
                again.append(pair)
        if again:
            prompts, adapters = zip(*again, strict=True)
            lengths = [len(ids) for ids in prompts]
            targets = self._rows.admit(prompts, lengths, adapters)
            self.copy_rows([first[pair] for pair in again], range(targets.start, targets.stop))
        return rows

    @torch.no_grad()
    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row, text and cache, what its source was."""
        self._rows.copy(sources, targets)
        self._cache.copy_rows(sources, targets, self._rows.longest)

    @torch.no_grad()
    def release(self, row: int) -> int:
        """Give a row up; the last row takes its place, and its number is returned."""
        last = self._rows.release(row)
        if row != last:
            self._cache.move_row(last, row, self._rows.longest)
        return last

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Every row reads its pending token: ``(rows, V)`` logits of the next, in float32."""
        self._catch_up()
        tokens, places = self._rows.waiting(1)
        out = self._forward(tokens, places, places, self._in_use, self._rows.longest)
        self._rows.cached(but=0)
        return out.logits[:, -1, : self.vocabulary].float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens to be read at the next step, or at the next in which the lane runs."""
        self._rows.feed(tokens)

    @torch.no_grad()
    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """The reward of each row's text followed by each candidate, in one forward.

        Candidates are query positions over a shared prefix: all at the same place in the text, each
        in a scratch slot of its own after the row's end.

        Args:
            candidates: ``(rows, k)`` token ids.

        Returns:
            ``(rows, k, labels)`` float32, read at the candidates' own positions whatever the
            padding token is; and ``(rows, labels)``, the reward of the text itself, where its last
            token was read in the same forward.
        """
        count, k = candidates.shape
        ends = self._rows.ends[:count, None]
        tokens = candidates.to(self.device)
        places, slots = ends.expand(count, k), ends + torch.arange(k, device=self.device)
        self._catch_up()
        if not self._reads_all:
            last, at = self._rows.waiting(1)
            tokens = torch.cat((last, tokens), dim=1)
            places, slots = torch.cat((at, places), dim=1), torch.cat((at, slots), dim=1)
        end = self._rows.longest + k
        out = self._forward(tokens, places, slots, self._in_use, end, backbone=True)
        scores = self.model.score(out.last_hidden_state).float()
        if self._reads_all:
            return scores, None
        self._rows.cached(but=0)
        return scores[:, 1:], scores[:, 0]

    @torch.no_grad()
    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """Move the chosen candidates' keys and values to their rows' ends.

        Args:
            choice: ``(rows,)`` indices into the candidates of the last ``rewards``.
            tokens: ``(rows,)`` the candidates themselves.
        """
        ends = self._rows.ends[: self._rows.count, None]
        source = ends + choice[:, None].to(self.device)
        self._cache.move_tokens(self._rows.index[: self._rows.count], source, ends)
        self._rows.feed(tokens)
        self._rows.cached(but=0)

    @property
    def _in_use(self) -> slice:
        return slice(0, self._rows.count)

    def _catch_up(self) -> None:
        """Read what is left over: what was said while the lane did not run."""
        while (behind := self._rows.backlog) > 0:
            tokens, places = self._rows.waiting(min(behind, CHUNK))
            self._forward(tokens, places, places, self._in_use, self._rows.longest, backbone=True)
            self._rows.cached(but=self._rows.waits + max(0, behind - CHUNK))

    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads: all but an untied input embedding."""
        total = sum(p.nbytes for p in self.model.parameters()) + self.adapters.bytes()
        embedding = self.model.get_input_embeddings().weight
        head = self.model.get_output_embeddings()
        tied = head is not None and head.weight is embedding
        return int(total if tied else total - embedding.nbytes)

    def token_bytes(self) -> int:
        """Bytes of cache that one token of one row takes."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * size * self.dtype.itemsize)

    def held_bytes(self) -> int:
        """Bytes of cache that are allocated."""
        return self._cache.nbytes

    @property
    def steady(self) -> bool:
        """Whether all layers are on one device."""
        return len({p.device for p in self.model.parameters()}) == 1

    def shape(self, ahead: int) -> Hashable:
        """Rows, the parts of the cache that are seen, and whether any row has an adapter."""
        longest, capacity = self._rows.longest, self._rows.capacity
        seen = tuple(rounded(longest + more, capacity) for more in (0, ahead - 1, ahead))
        return self._rows.count, seen, self._rows.adapted

    def _forward(
        self,
        tokens: Tensor,
        places: Tensor,
        slots: Tensor,
        rows: slice,
        end: int,
        backbone: bool = False,
    ) -> Any:
        """One forward of the rows: with the head, or of the backbone alone.

        Args:
            tokens: ``(n, q)`` ids.
            places: ``(n, q)`` positions in the text.
            slots: ``(n, q)`` positions in the cache.
            rows: which rows they belong to.
            end: no slot that any query sees is at or beyond this.
        """
        limit = rounded(end, self._rows.capacity)
        masks = attention_masks(self.config, self.dtype, places, slots, limit)
        self._cache.window = Window(rows, self._rows.index[rows], slots, limit)
        network = self.model.base_model if backbone else self.model
        adapters = self._rows.adapters[rows] if self._rows.adapted else None
        with self.adapters.chosen(adapters), grouped(self.config):
            return network(
                input_ids=tokens,
                position_ids=places,
                attention_mask=masks,
                past_key_values=self._cache,
                use_cache=True,
            )


def _alike(lengths: Sequence[int]) -> list[range]:
    """Neighbours of falling lengths, in groups that are worth a forward of their own."""
    groups, first, padding = [], 0, 0
    for i, length in enumerate(lengths):
        padding += lengths[first] - length
        if padding > PADDING:
            groups.append(range(first, i))
            first, padding = i, 0
    return [*groups, range(first, len(lengths))]
