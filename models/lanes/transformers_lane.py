"""A lane: one set of weights on one device with one key/value cache.

It steps rows. Which row belongs to which request and term is up to the runtime.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..cache import attention as _attention  # noqa: F401  registers itself with transformers
from ..cache.attention_scale import RowScale, scaled_layers
from ..cache.kv_cache import RowCache, bytes_per_token, rounded, run_rows
from ..cache.masks import Window
from ..cache.rope import RowRope, length_limits
from ..cache.rows import Join, RowLane, Rows, Run, padded
from ..checkpoint.reward_head import Head
from ..eval_mode import evaluating
from ..footprint import Footprint, compute_dtype, execution_device, on_one_device, weights_footprint
from .lora import Adapters
from .prompt_logits import end_together, gives_logits, of_rows

Pair: TypeAlias = tuple[tuple[int, ...], int]  # a prompt and the number of its adapter
CHUNK = 2048  # prompt tokens of all rows in one forward
PADDING = 512  # tokens of padding in one forward; with more, there are two


class TransformersLane(RowLane):
    """A lane over a transformers model.

    Args:
        model: the model, on its device and in its dtype.
        vocabulary: logits beyond this id are cut.
        reads_all: the cache always holds the whole text (a reward model whose winner is moved);
            otherwise the next step reads the last token, so that the first step is like any other.

    Attributes:
        exact_length: where all texts have one length, a step sees just that many keys, without a
            mask; otherwise lengths are rounded, for few kernels and CUDA graphs. True on a CPU.
    """

    def __init__(self, model: Any, vocabulary: int, reads_all: bool) -> None:
        self.model, self.vocabulary, self._reads_all = model, vocabulary, reads_all
        self.config = model.config.get_text_config()
        self.device: torch.device = execution_device(model.get_input_embeddings())
        self.dtype: torch.dtype = compute_dtype(model)
        self.adapters = Adapters(model)
        self._modules = tuple(model.modules())
        self._limits = length_limits(model.config)
        self._rules: list[RowRope | RowScale] = [RowRope(model)] if self._limits else []
        self._rules += [RowScale(model)] if scaled_layers(model) else []
        self.exact_length = self.device.type == "cpu"
        self.reserve(0, 0)

    @torch.no_grad()
    def reserve(self, rows: int, capacity: int) -> None:
        pending = 0 if self._reads_all else 1
        self.rows = Rows(rows, capacity, self.device, pending, self._limits)
        self._cache = RowCache(rows, capacity)
        self._admitting = False  # whether rows beyond those in use are being read

    @torch.no_grad()
    def grow(self, capacity: int, rows: int = 0) -> None:
        super().grow(capacity, rows)
        self._cache.grow(capacity, rows)

    def admit(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[int]
    ) -> Generator[int, None, Join]:
        """Read prompts of a token at least, each text once, into caches beyond the rows in use."""
        pairs = [(tuple(ids), adapter) for ids, adapter in zip(prompts, adapters, strict=True)]
        distinct = sorted(dict.fromkeys(pairs), key=lambda pair: -len(pair[0]))
        lengths = [len(ids) for ids, _ in distinct]
        groups, base = _length_groups(lengths), self.rows.count
        together = self._gives_logits and not base and end_together(lengths, groups)
        logits: list[Tensor] | None = [] if together else None
        self._admitting = True
        for group in groups:
            rows = slice(base + group.start, base + group.stop)
            yield from self._prefill(distinct[group.start : group.stop], rows, logits)
        return partial(self._join, pairs, distinct, base, logits)

    @cached_property
    def _gives_logits(self) -> bool:
        """Whether the forwards that read prompts can give what the first step needs."""
        return not self._reads_all and not self._limits and gives_logits(self.model)

    def _prefill(
        self, pairs: Sequence[Pair], rows: slice, logits: list[Tensor] | None
    ) -> Iterator[int]:
        """Read texts, the longest first.

        Args:
            logits: gets ``(texts, V)`` what follows them, which all have one length; where it is
                None, the next step reads their last tokens.
        """
        longest = len(pairs[0][0]) - (self.rows.pending if logits is None else 0)
        texts = padded([ids for ids, _ in pairs]).to(self.device)
        lengths = torch.tensor([len(ids) for ids, _ in pairs], device=self.device)
        numbers = [number for _, number in pairs]
        adapters = torch.tensor(numbers, device=self.device) if any(numbers) else None
        size = max(1, CHUNK // len(pairs))
        for start in range(0, longest, size):
            end = min(start + size, longest)
            chunk = texts[:, start:end]
            yield chunk.numel()
            positions = torch.arange(start, end, device=self.device).expand(chunk.shape)
            window = Window(rows, self.rows.index[rows], positions, end, start=start)
            if logits is None or end < longest:
                self._forward(chunk, positions, window, adapters, backbone=True, lengths=lengths)
            else:
                what = chunk, positions, window, adapters
                out = self._forward(*what, backbone=False, lengths=lengths, logits_to_keep=1)
                logits.append(out.logits[:, -1, : self.vocabulary].float())

    @torch.no_grad()
    def _join(
        self,
        pairs: Sequence[Pair],
        distinct: Sequence[Pair],
        base: int,
        logits: Sequence[Tensor] | None,
    ) -> list[int]:
        """Put rows in use that were prefilled from row ``base`` on; others may have left since.

        Args:
            logits: what follows the distinct texts, where it is known and nobody else has a row.
        """
        self._admitting = False
        first = self.rows.count
        kept = max(0, len(distinct) - (base - first))  # the rest moves to rows that were released
        if moved := range(base + kept, base + len(distinct)):
            free = range(first, first + len(moved))
            self._cache.copy_rows(moved, free, len(distinct[0][0]))
        ordered = [*distinct[kept:], *distinct[:kept]]
        texts, adapters = zip(*ordered, strict=True)
        unread = self.rows.pending if logits is None else 0
        new = self.rows.admit(texts, [len(ids) - unread for ids in texts], adapters)
        rows = self._repeated(pairs, dict(zip(ordered, new, strict=True)))
        if logits is not None:
            self.rows.next_logits = of_rows(logits, distinct, pairs, rows)
        return rows

    def _repeated(self, pairs: Sequence[Pair], read: Mapping[Pair, int]) -> list[int]:
        """A row for each prompt: the one that read it, then copies of that."""
        rows, repeats, unused = list[int](), list[Pair](), dict(read)
        for pair in pairs:
            if pair in unused:
                rows.append(unused.pop(pair))
            else:
                rows.append(self.rows.count + len(repeats))
                repeats.append(pair)
        if repeats:
            prompts, adapters = zip(*repeats, strict=True)
            targets = self.rows.admit(prompts, [len(ids) for ids in prompts], adapters)
            self.copy_rows([read[pair] for pair in repeats], targets)
        return rows

    @torch.no_grad()
    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        super().copy_rows(sources, targets)
        self._cache.copy_rows(sources, targets, self.rows.longest)

    @torch.no_grad()
    def release(self, row: int) -> int:
        last = super().release(row)
        self._cache.release(row, last, self.rows.longest)
        if not self.rows.count and not self._admitting:
            self._cache.clear()
        return last

    @torch.no_grad()
    def logits(self) -> Tensor:
        if self.rows.next_logits is not None:
            return self.rows.next_logits
        self._catch_up()
        tokens, positions = self.rows.unread(1)
        same = self.exact_length and self.rows.same_length
        out = self._step(tokens, positions, positions, self.rows.longest, same_length=same)
        self.rows.mark_cached()
        return out.logits[:, -1, : self.vocabulary].float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def logits_of_last(self, tokens: int) -> Tensor:
        """As the protocol's, in any dtype; undefined where a text is shorter."""
        if tokens == 1 and self.rows.next_logits is not None:
            return self.rows.next_logits[:, None]
        positions = self.rows.last_positions(tokens)
        ids = self.rows.texts[: self.rows.count].gather(1, positions)
        early = self._before_limit(ids, positions)
        self._catch_up(leave=tokens)
        out = self._step(ids, positions, positions, self.rows.longest)
        self.rows.mark_cached()
        logits: Tensor = out.logits[..., : self.vocabulary]
        if early is None:
            return logits
        return torch.where(
            (positions < self.rows.limits[0])[..., None].to(logits.device), early, logits
        )

    def _before_limit(self, ids: Tensor, positions: Tensor) -> Tensor | None:
        """Logits of the same tokens as in ``logits_of_last``, as long as texts are short.

        None where no text grows beyond its rotary frequencies within these tokens.
        """
        tokens = ids.shape[1]
        if not any(self.rows.crosses(n - tokens + 1, n) for n in self.rows.counts()[1]):
            return None
        self._catch_up(leave=tokens, ahead=1 - tokens)
        lengths = self.rows.ends[: self.rows.count] + (1 - tokens)
        out = self._step(ids, positions, positions, self.rows.longest, lengths=lengths)
        return out.logits[..., : self.vocabulary]  # type: ignore[no-any-return]

    @torch.no_grad()
    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """The reward of each row's text followed by each of ``(rows, k)`` candidates.

        Candidates are queries over a shared prefix in one forward: all at one position of the text,
        each at a cache position of its own after the row's end.

        Returns:
            ``(rows, k, labels)`` float32, read at the candidates' own positions whatever the
            padding token is; and ``(rows, labels)``, the reward of the text itself, where its last
            token was read in the same forward.
        """
        count, k = candidates.shape
        ends = self.rows.ends[:count, None]
        tokens, positions = candidates.to(self.device), ends.expand(count, k)
        cache_positions = ends + torch.arange(k, device=self.device)
        own = self._own_rewards() if not self._reads_all else None
        self._catch_up(ahead=1)
        if not self._reads_all:
            last, at = self.rows.unread(1)
            tokens, positions = torch.cat((last, tokens), dim=1), torch.cat((at, positions), dim=1)
            cache_positions = torch.cat((at, cache_positions), dim=1)
        end = self.rows.longest + k
        out = self._step(tokens, positions, cache_positions, end, backbone=True)
        rewards = self.head(out.last_hidden_state)
        if self._reads_all:
            return rewards, None
        self.rows.mark_cached()
        return rewards[:, 1:], rewards[:, 0] if own is None else own

    def _own_rewards(self) -> Tensor | None:
        """The rewards of the texts, where a candidate makes one longer than its frequencies."""
        if not any(self.rows.crosses(end, end + 1) for end in self.rows.counts()[1]):
            return None
        self._catch_up()
        tokens, positions = self.rows.unread(1)
        out = self._step(tokens, positions, positions, self.rows.longest, backbone=True)
        return self.head(out.last_hidden_state)[:, 0]

    @torch.no_grad()
    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """Move the chosen candidates' keys and values to their rows' ends.

        Args:
            choice: ``(rows,)`` indices into the candidates of the last ``rewards``.
            tokens: ``(rows,)`` the candidates themselves.
        """
        ends = self.rows.ends[: self.rows.count, None]
        source = ends + choice[:, None].to(self.device)
        self._cache.move_tokens(self.rows.index[: self.rows.count], source, ends)
        self.rows.feed(tokens)
        self.rows.mark_cached()

    @cached_property
    def head(self) -> Head:
        """The head of a reward model."""
        return Head(self.model)

    def plan_line(self, candidates: str) -> str:
        """How candidates are scored, for the plan."""
        return f"tree, {candidates} in one forward over the cached text"

    def _catch_up(self, leave: int | None = None, ahead: int = 0) -> None:
        """Read tokens that came while the lane did not run, all but ``leave``.

        Args:
            ahead: tokens beyond its text that the next forward of a row is about.
        """
        more = 0 if leave is None else leave - self.rows.pending
        lengths: Tensor | None = None
        if self._limits:
            lengths = self.rows.ends[: self.rows.count] + ahead
            pairs = enumerate(zip(*self.rows.counts(), strict=True))
            stale = [row for row, (n, end) in pairs if self.rows.crosses(n, end + ahead)]
            self.rows.forget(stale)  # and read again: every layer's keys are others
        while (backlog := self.rows.backlog - more) > 0:
            tokens, positions = self.rows.unread(min(backlog, CHUNK))
            end = self.rows.longest
            self._step(tokens, positions, positions, end, backbone=True, lengths=lengths)
            self.rows.mark_cached(self.rows.pending + more + max(0, backlog - CHUNK))

    def footprint(self) -> Footprint:
        footprint = self._footprint.with_adapters(self.adapters)
        return replace(footprint, cache_bytes=self._cache.nbytes)

    @cached_property
    def _footprint(self) -> Footprint:
        """Without adapters and caches, which change.

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
            weights_footprint(self.model),
            token_bytes=bytes_per_token(self.model, self.dtype),
            work=((feed_forward, 1), (attention, 1 + size)),
        )

    @property
    def capturable(self) -> bool:
        # A row that grows beyond its frequencies is read again, which no graph has recorded.
        return not self._limits and on_one_device(self.model)

    def graph_key(self, ahead: int) -> Hashable:
        """Rows, the parts of the cache that are seen, and whether any row has an adapter."""
        longest, capacity = self.rows.longest, self.rows.capacity
        seen = tuple(rounded(longest + more, capacity) for more in (0, ahead - 1, ahead))
        return self.rows.count, seen, self.rows.adapted

    def _step(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache_positions: Tensor,
        end: int,
        backbone: bool = False,
        starts: Tensor | None = None,
        same_length: bool = False,
        lengths: Tensor | None = None,
    ) -> Any:
        """A forward of all rows in use.

        Args:
            tokens, positions, cache_positions: ``(rows, q)``.
            end: every cache position that a query sees is below this.
            backbone: leave out the head.
            starts: as in ``Window``, and ``same_length`` too.
            lengths: ``(rows,)`` of the texts that this is about; by default up to the last token.
        """
        rows = slice(0, self.rows.count)
        adapters = self.rows.adapters[rows] if self.rows.adapted else None
        limit = end if same_length else rounded(end, self.rows.capacity)
        window = Window(
            rows, self.rows.index[rows], cache_positions, limit, starts, same_length,
            runs=self._runs(end) if self.exact_length and not same_length else (),
        )  # fmt: skip
        return self._forward(tokens, positions, window, adapters, backbone, lengths)

    def _runs(self, end: int) -> Sequence[Run]:
        """The runs of rows in use, where the longest sees what is below ``end``."""
        ahead, capacity = end - self.rows.longest, self.rows.capacity
        runs = self.rows.runs(lambda longest: rounded(longest + ahead, capacity))
        return runs if len(runs) > 1 else ()

    @torch.no_grad()
    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        window: Window,
        adapters: Tensor | None,
        backbone: bool,
        lengths: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """One forward of a window's rows: with the head, or of the backbone alone."""
        network = self.model.base_model if backbone else self.model
        with evaluating(self._modules), self.adapters.chosen(adapters), ExitStack() as rules:
            for rule in self._rules:
                if lengths is None:
                    lengths = positions.amax(dim=1) + 1
                rules.enter_context(rule.during(positions, lengths))
            return run_rows(network, self._cache, window, tokens, positions, **options)


def _length_groups(lengths: Sequence[int]) -> list[range]:
    """Falling lengths in groups, one forward each: a group has at most ``PADDING`` of padding."""
    groups, first, padding = [], 0, 0
    for i, length in enumerate(lengths):
        padding += lengths[first] - length
        if padding > PADDING:
            groups.append(range(first, i))
            first, padding = i, 0
    return [*groups, range(first, len(lengths))]
