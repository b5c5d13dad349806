"""A lane: one set of weights on one device with one key/value cache.

It steps rows and knows nothing of formulas: which row belongs to which request and term is the
runtime's business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..cache import attention as _attention  # noqa: F401  it takes part by being imported
from ..cache.kv_cache import RowCache, Window, bytes_per_token, read, rounded
from ..cache.rows import Join, Rows, padded
from ..checkpoint.reward_head import Head
from .footprint import (
    Footprint,
    compute_dtype,
    execution_device,
    on_one_device,
    weights_footprint,
)
from .lora import Adapters

Pair: TypeAlias = tuple[tuple[int, ...], int]  # a prompt and the number of its adapter
CHUNK = 2048  # prompt tokens of all rows in one forward
PADDING = 512  # tokens of padding in one, rather than another forward


class TransformersLane:
    """A lane over a transformers model.

    Args:
        model: the model, on its device and in its dtype.
        vocabulary: logits beyond this id are cut.
        reads_all: the whole text is always in the cache (a reward model whose winner is moved);
            otherwise its last token waits for the next step, so that the first is like every other.

    Attributes:
        exact: where rows end together, a step reads just what there is, without a mask. On a CPU,
            which needs no kernel or recording of a few sizes.
    """

    def __init__(self, model: Any, vocabulary: int, reads_all: bool) -> None:
        self.model, self.vocabulary, self._reads_all = model, vocabulary, reads_all
        self.config = model.config.get_text_config()
        self.device: torch.device = execution_device(model.get_input_embeddings())
        self.dtype: torch.dtype = compute_dtype(model)
        self.adapters = Adapters(model)
        self.exact = self.device.type == "cpu"
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
    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for longer texts and for more rows, and keep those there are."""
        self._rows.grow(capacity, rows)
        self._cache.grow(capacity, rows)

    def admit(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[int]
    ) -> Generator[int, None, Join]:
        """Read prompts, each text once, into the caches of rows beyond those in use.

        Args:
            prompts: token ids, at least one each.
            adapters: for each prompt, 0 or the number of an adapter.

        Yields:
            Before each forward, the tokens that it reads.

        Returns:
            What puts the rows in use, and says their numbers.
        """
        pairs = [(tuple(ids), adapter) for ids, adapter in zip(prompts, adapters, strict=True)]
        distinct = sorted(dict.fromkeys(pairs), key=lambda pair: -len(pair[0]))
        cached = [len(ids) - self._rows.waits for ids, _ in distinct]
        base = self._rows.count
        for alike in _alike(cached):
            rows = slice(base + alike.start, base + alike.stop)
            some = distinct[alike.start : alike.stop]
            for size, go in self._prefill(some, rows, cached[alike.start]):
                yield size
                go()
        return partial(self._join, pairs, distinct, base)

    def _prefill(
        self, some: Sequence[Pair], rows: slice, longest: int
    ) -> Iterator[tuple[int, Callable[[], Any]]]:
        """The forwards over the first tokens of some texts, ``longest`` of the longest."""
        texts = padded([ids for ids, _ in some]).to(self.device)
        chosen = [adapter for _, adapter in some]
        adapters = torch.tensor(chosen, device=self.device) if any(chosen) else None
        size = max(1, CHUNK // len(some))
        for start in range(0, longest, size):
            end = min(start + size, longest)
            chunk = texts[:, start:end]
            places = torch.arange(start, end, device=self.device).expand(chunk.shape)
            yield (
                chunk.numel(),
                partial(self._forward, chunk, places, places, rows, end, adapters, backbone=True),
            )

    @torch.no_grad()
    def _join(self, pairs: Sequence[Pair], distinct: Sequence[Pair], base: int) -> list[int]:
        """Put rows in use that were read from row ``base`` on, next to those that are by now."""
        first = self._rows.count
        kept = max(0, len(distinct) - (base - first))  # the others fill what rows left behind
        moved = range(base + kept, base + len(distinct))
        if moved:
            free = range(first, first + len(moved))
            self._cache.copy_rows(moved, free, len(distinct[0][0]))
        placed = [*distinct[kept:], *distinct[:kept]]
        new = self._rows.admit(
            [ids for ids, _ in placed],
            [len(ids) - self._rows.waits for ids, _ in placed],
            [adapter for _, adapter in placed],
        )
        return self._repeated(pairs, dict(zip(placed, new, strict=True)))

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
            self.copy_rows([first[pair] for pair in again], targets)
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
        self._cache.leave(row, last, self._rows.longest)
        return last

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Every row reads its pending token: ``(rows, V)`` logits of the next, in float32."""
        self._catch_up()
        tokens, places = self._rows.waiting(1)
        together = self.exact and self._rows.together
        out = self._step(tokens, places, places, self._rows.longest, together=together)
        self._rows.cached(but=0)
        return out.logits[:, -1, : self.vocabulary].float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def along(self, tokens: int) -> Tensor:
        """Every row reads what waits: what follows each of the last ``tokens`` of its text.

        Returns:
            ``(rows, tokens, V)`` logits in the model's dtype, the last after the whole text. Where
            a text is shorter, the first of them mean nothing.
        """
        self._catch_up(leave=tokens)
        places = self._rows.ending(tokens)
        ids = self._rows.texts[: self._rows.count].gather(1, places)
        out = self._step(ids, places, places, self._rows.longest)
        self._rows.cached(but=0)
        return out.logits[..., : self.vocabulary]  # type: ignore[no-any-return]

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
        out = self._step(tokens, places, slots, end, backbone=True)
        scores = self.head(out.last_hidden_state)
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

    @cached_property
    def head(self) -> Head:
        """The head of a reward model."""
        return Head(self.model)

    def path(self, candidates: str) -> str:
        """How a reward is asked about them, for the plan."""
        return f"tree, {candidates} in one forward over the cached text"

    def _catch_up(self, leave: int | None = None) -> None:
        """Read what is left over, said while the lane did not run: all but so many tokens."""
        more = 0 if leave is None else leave - self._rows.waits
        while (behind := self._rows.backlog - more) > 0:
            tokens, places = self._rows.waiting(min(behind, CHUNK))
            self._step(tokens, places, places, self._rows.longest, backbone=True)
            self._rows.cached(but=self._rows.waits + more + max(0, behind - CHUNK))

    def footprint(self) -> Footprint:
        """What the lane costs now, in bytes.

        A forward works in the larger of two: per token, three vectors of the feed-forward size and
        the token's own; or queries, keys, values, and the mask, as bool and in the model's dtype.
        """
        config, size = self.config, self.dtype.itemsize
        hidden = config.hidden_size
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        inner = max(inner) if isinstance(inner, (list, tuple)) else inner  # a size per layer
        inner *= getattr(config, "num_experts_per_tok", None) or 1
        feed_forward, attention = (3 * inner + 4 * hidden) * size, 6 * hidden * size
        return replace(
            weights_footprint(self.model, self.adapters),
            token_bytes=self._token_bytes,
            cache_bytes=self._cache.nbytes,
            work=((feed_forward, 1), (attention, 1 + size)),
        )

    @cached_property
    def _token_bytes(self) -> int:
        return bytes_per_token(self.model, self.dtype)

    @property
    def steady(self) -> bool:
        """Whether all layers are on one device, and stay there."""
        return on_one_device(self.model)

    def shape(self, ahead: int) -> Hashable:
        """Rows, the parts of the cache that are seen, and whether any row has an adapter."""
        longest, capacity = self._rows.longest, self._rows.capacity
        seen = tuple(rounded(longest + more, capacity) for more in (0, ahead - 1, ahead))
        return self._rows.count, seen, self._rows.adapted

    def _step(
        self,
        tokens: Tensor,
        places: Tensor,
        slots: Tensor,
        end: int,
        backbone: bool = False,
        starts: Tensor | None = None,
        together: bool = False,
    ) -> Any:
        """A forward of all rows in use."""
        rows = slice(0, self._rows.count)
        adapters = self._rows.adapters[rows] if self._rows.adapted else None
        return self._forward(tokens, places, slots, rows, end, adapters, backbone, starts, together)

    @torch.no_grad()
    def _forward(
        self,
        tokens: Tensor,
        places: Tensor,
        slots: Tensor,
        rows: slice,
        end: int,
        adapters: Tensor | None,
        backbone: bool = False,
        starts: Tensor | None = None,
        together: bool = False,
    ) -> Any:
        """One forward of the rows: with the head, or of the backbone alone.

        Args:
            tokens: ``(n, q)`` ids.
            places: ``(n, q)`` positions in the text.
            slots: ``(n, q)`` positions in the cache.
            rows: which rows they belong to.
            end: no slot that any query sees is at or beyond this.
            adapters: ``(n,)`` their numbers; None where no row has any.
            backbone: leave out the head.
            starts: as ``Window`` has them, and ``together`` too.
        """
        limit = end if together else rounded(end, self._rows.capacity)
        window = Window(rows, self._rows.index[rows], slots, limit, starts, together)
        network = self.model.base_model if backbone else self.model
        with self.adapters.chosen(adapters):
            return read(network, self._cache, window, tokens, places)


def _alike(lengths: Sequence[int]) -> list[range]:
    """Neighbours of falling lengths, in groups that are worth a forward of their own."""
    groups, first, padding = [], 0, 0
    for i, length in enumerate(lengths):
        padding += lengths[first] - length
        if padding > PADDING:
            groups.append(range(first, i))
            first, padding = i, 0
    return [*groups, range(first, len(lengths))]
