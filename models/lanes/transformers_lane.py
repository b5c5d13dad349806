"""A lane: one set of weights on one device with one key/value cache.

It steps rows. Which row belongs to which request and term is up to the runtime.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..backbone import backbone_of
from ..cache import attention as _attention  # noqa: F401  registers itself with transformers
from ..cache.attention_scale import RowScale, scaled_layers
from ..cache.kv_cache import rounded, run_rows, surveyed
from ..cache.layers.states import layer_kinds
from ..cache.live import LiveAttention
from ..cache.rope import RowRope, length_limits
from ..cache.survey import LayerShape, Survey
from ..cache.window import Run, Window, runs_of_lengths
from ..combinations import Chosen
from ..eval_mode import evaluating
from ..footprint import (
    Footprint,
    compute_dtype,
    execution_device,
    forward_work,
    on_one_device,
    weights_footprint,
)
from ..heads.declared import DeclaredHead
from ..heads.layer_heads import HeadColumns, LayerHeads
from ..images.positions import has_axes
from ..images.prompt import ImagePrompt
from ..images.reading import seen
from ..layers.few_rows import FewRows
from ..layers.fused_layers import FusedLayers
from ..recordings import Recordings, Work
from ..upload import Changes
from . import prefill
from .adapters import Adapters
from .candidates import CandidateLane

_SURVEYS: WeakKeyDictionary[Any, dict[torch.dtype, tuple[int, Survey]]] = WeakKeyDictionary()
_APART = "its weights are on several devices, or moved"
# How far a replay's logits may be from the eager ones, as a share of the largest.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class TransformersLane(CandidateLane):
    """A lane over a transformers model.

    Args:
        model: the model, on its device and in its dtype.
        vocabulary: logits beyond this id are cut.
        reads_all: the cache always holds the whole text (a reward model whose winner is moved);
            otherwise the next step reads the last token, so that the first step is like any other.
        knows_answers: whether a text begins with its prompt, and goes on with the answer.

    Attributes:
        exact_length: where all texts have one length, a step sees just that many keys, without a
            mask; otherwise lengths are rounded, for few kernels and CUDA graphs. True on a CPU.
        live: which forwards attend by live lengths.
        fused: whether those compute their layers in few launches.
        heads: whose outputs are behind the logits: ``width`` columns, with those.
    """

    keeps_logits = True

    def __init__(
        self, model: Any, vocabulary: int, reads_all: bool, knows_answers: bool = True
    ) -> None:
        self.model, self.vocabulary, self._reads_all = model, vocabulary, reads_all
        self.config = model.config.get_text_config()
        self.device: torch.device = execution_device(model.get_input_embeddings())
        self.dtype: torch.dtype = compute_dtype(model)
        self.adapters = Adapters(model, knows_answers)
        self.heads = LayerHeads(model, vocabulary)
        self._modules, self._backbone = tuple(model.modules()), backbone_of(model)
        self._kinds = layer_kinds(self.config)
        self._limits = length_limits(model.config)
        self._has_axes = has_axes(model)
        self._rules: list[RowRope | RowScale] = [RowRope(model)] if self._limits else []
        self._rules += [RowScale(model)] if scaled_layers(model) else []
        self.exact_length = self.device.type == "cpu"
        self.live = LiveAttention(self.device, self.dtype)
        self.fused = FusedLayers(model, self.device, self.adapters)
        self._few_rows = FewRows(self._modules)
        self.reserve(0, 0)

    def record(self) -> None:
        """Record forwards from now on, in buckets of rows; nobody may be in a row.

        A lane that cannot be recorded goes on eagerly, over memory that recordings of others read.
        """
        if self.recordings is None:
            self.recordings = Recordings(type(self.model).__name__, self.device, self.why_eager)
            self.reserve(0, 0)

    @property
    def width(self) -> int:
        """Columns of the logits, and of what heads give."""
        return self.vocabulary + self.heads.width

    def add_head(self, head: DeclaredHead) -> HeadColumns:
        if head not in self.heads:
            self.heads.add(head)
            self._logits = self.rows.next_logits = None
            self._moved()
        return self.heads.columns(head)

    def use_buckets(self, on: bool) -> None:
        self.rows.use_buckets(on and self.recordings is not None)

    @torch.no_grad()
    def forward(self) -> bool:
        self._make_room(0)
        if self._logits is not None and self._read_at == self.rows.version:
            return self.rows.next_logits is None
        self._read_at = self.rows.version
        if self.ready and self.rows.next_logits is not None:
            logits = self.rows.next_logits
            self._logits = self._in_buffer(logits) if self.rows.bucketed else logits
            return False
        if self.recordings is None or not self.rows.bucketed:
            self._logits = self._read_unread()
        else:
            self._catch_up()
            work = Work(
                self._read_into_buffer, lambda logits: [logits], [self.rows],
                tolerance=TOLERANCE.get(self.dtype, 1e-3),
            )  # fmt: skip
            self._logits = self.recordings.run(self.graph_key(1), work)
        return True

    @property
    def ready(self) -> bool:
        """As the protocol's; not before a forward of so many rows has run, to be recorded next."""
        if self.recordings is None or not self.rows.bucketed:
            return super().ready
        return super().ready and self.recordings.knows(self.graph_key(1))

    def logits(self) -> Tensor:
        self.forward()
        logits = self._logits
        assert logits is not None
        if not self.rows.bucketed:
            self._logits = None  # whoever asked has them
        return logits

    def _read_into_buffer(self) -> Tensor:
        """The same of pending tokens, where recordings look for it: in memory that stays."""
        tokens, positions = self.rows.unread(1)
        out = self._step(tokens, positions, positions, self.rows.longest)
        self.rows.mark_cached()
        return self._in_buffer(out.logits[:, -1, : self.width])

    @torch.no_grad()
    def logits_of_last(self, tokens: int) -> Tensor:
        """As the protocol's, in any dtype; undefined where a text is shorter."""
        if tokens == 1 and self.rows.next_logits is not None:
            return self.rows.next_logits[:, None]
        self._make_room(0)
        if self.recordings is not None and self.rows.bucketed and not self._limits:
            self._catch_up(leave=tokens)
            work = Work(
                partial(self._read_last_into_buffer, tokens), lambda logits: [logits], [self.rows],
                tolerance=TOLERANCE.get(self.dtype, 1e-3),
            )  # fmt: skip
            return self.recordings.run((tokens, self.graph_key(tokens)), work)
        positions = self.rows.last_positions(tokens)
        ids = self.rows.tokens_at(positions)
        early = self._before_limit(ids, positions)
        self._catch_up(leave=tokens)
        out = self._step(ids, positions, positions, self.rows.longest)
        self.rows.mark_cached()
        logits: Tensor = out.logits[..., : self.width]
        if early is None:
            return logits
        return torch.where(
            (positions < self.rows.limits[0])[..., None].to(logits.device), early, logits
        )

    def _read_last_into_buffer(self, tokens: int) -> Tensor:
        """The same, where recordings look for them; of a bucket of rows."""
        positions = self.rows.last_positions(tokens)
        ids, key = self.rows.tokens_at(positions), (tokens, self.rows.width)
        out = self._step(ids, positions, positions, self.rows.longest)
        self.rows.mark_cached()
        logits = out.logits[..., : self.width]
        if key not in self.last_logits:
            self.last_logits[key] = torch.empty_like(logits)
        return self.last_logits[key].copy_(logits)

    def _before_limit(self, ids: Tensor, positions: Tensor) -> Tensor | None:
        """Logits of the same tokens as in ``logits_of_last``, as long as texts are short.

        None where no text grows beyond its rotary frequencies within these tokens.
        """
        tokens = ids.shape[1]
        if not any(self.rows.crosses(n - tokens + 1, n) for n in self.rows.counts()[1]):
            return None
        self._catch_up(leave=tokens, ahead=1 - tokens)
        lengths = self.rows.ends[: self.rows.width] + (1 - tokens)
        out = self._step(ids, positions, positions, self.rows.longest, lengths=lengths)
        return out.logits[..., : self.width]  # type: ignore[no-any-return]

    @torch.no_grad()
    def catch_up(self) -> None:
        """Read what came while the lane did not run, all but what the next step reads."""
        self._catch_up(ahead=int(self._reads_all))

    def changes(self) -> Changes:
        return [*super().changes(), *self.adapters.changes()]

    def _make_room(self, ahead: int) -> None:
        super()._make_room(ahead)
        self.adapters.flush()

    def logits_key(self) -> Hashable:
        return self.rows.width

    def _catch_up(self, leave: int | None = None, ahead: int = 0) -> None:
        """Read tokens that came while the lane did not run, all but ``leave``.

        Args:
            ahead: tokens beyond its text that the next forward of a row is about.
        """
        more = 0 if leave is None else leave - self.rows.pending
        lengths: Tensor | None = None
        if self._limits:
            lengths = self.rows.ends[: self.rows.width] + ahead
            pairs = enumerate(zip(*self.rows.counts(), strict=True))
            stale = [row for row, (n, end) in pairs if self.rows.crosses(n, end + ahead)]
            for row in stale:
                self.rows.shorten(row, 0)  # and read again: every layer's keys are others
        self._catch_up_ragged(more + self.rows.pending)
        while (backlog := self.rows.backlog - more) > 0:
            tokens, positions = self.rows.unread(min(backlog, prefill.CHUNK))
            end = self.rows.longest
            self._step(tokens, positions, positions, end, backbone=True, lengths=lengths)
            self.rows.mark_cached(self.rows.pending + more + max(0, backlog - prefill.CHUNK))

    def footprint(self) -> Footprint:
        footprint = self._footprint.with_adapters(self.adapters).with_adapters(self.heads)
        return replace(
            footprint, row_bytes=self._row_bytes, cache_bytes=self.blocks.nbytes,
            kept_bytes=self.kept_bytes,
        )  # fmt: skip

    @property
    def _row_bytes(self) -> int:
        """Of what a row keeps whatever its length."""
        return 0

    @cached_property
    def _survey(self) -> tuple[int, Survey]:
        known = _SURVEYS.setdefault(self.model, {})  # of several lanes over the same weights
        if self.dtype not in known:
            known[self.dtype] = surveyed(self.model, self.dtype)
        return known[self.dtype]

    @property
    def _shapes(self) -> Sequence[LayerShape]:
        return self._survey[1].shapes

    @cached_property
    def _footprint(self) -> Footprint:
        """Without adapters and caches, which change."""
        token_bytes, survey = self._survey
        self.live.consider(survey)
        if not on_one_device(self.model):
            self.live.go_by_masks(_APART)
        work = forward_work(self.config, self.dtype)
        return replace(weights_footprint(self.model), token_bytes=token_bytes, work=work)

    @property
    def why_eager(self) -> str | None:
        if self._limits:
            return "its keys are others in longer texts, which are read again then"
        return None if on_one_device(self.model) else _APART

    def graph_key(self, ahead: int) -> Hashable:
        """Rows, what any of them adds, and, with masks, the parts of the cache that are seen.

        Args:
            ahead: tokens that a row reads, its pending one among them.
        """
        rows = self.rows
        added = rows.parts or self._has_axes
        key = rows.width, added and (rows.parts, self.adapters.version)
        if self._goes_live(ahead - self._reads_all):
            return key
        seen = (rounded(rows.longest + more, rows.capacity) for more in (0, ahead - 1, ahead))
        return *key, *seen

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
        reads: Tensor | None = None,
        copies: int = 0,
        **options: Any,
    ) -> Any:
        """A forward of all rows in use.

        Args:
            tokens, positions, cache_positions: ``(rows, q)``.
            end: every cache position that a query sees is below this.
            backbone: leave out the head.
            starts: as in ``Window``, and ``same_length`` too.
            lengths: ``(rows,)`` of the texts that this is about; by default up to the last token.
            reads, copies: as in ``Window``.
            options: more arguments of the model's.
        """
        capacity = self.rows.capacity
        live = not same_length and self._goes_live(tokens.shape[1])
        limit = end if same_length else capacity if live else rounded(end, capacity)
        runs = self._runs(end) if self.exact_length and not (same_length or live) else ()
        window = Window(
            cache_positions, limit, starts=starts, same_length=same_length, runs=runs, live=live,
            reads=reads, copies=copies,
        )  # fmt: skip
        where, chosen = self.blocks.window(window), self.rows.chosen
        slots = self.rows.adapters[: self.rows.width]
        return self._forward(tokens, positions, where, chosen, backbone, lengths, slots, **options)

    def _runs(self, end: int) -> Sequence[Run]:
        """The runs of rows in use, where the longest sees what is below ``end``."""
        ahead, capacity = end - self.rows.longest, self.rows.capacity
        lengths = self.rows.counts()[1]
        runs = runs_of_lengths(lengths, lambda longest: rounded(longest + ahead, capacity))
        return runs if len(runs) > 1 else ()

    @torch.no_grad()
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
        """One forward of a window's rows: with the heads, or of the backbone alone."""
        network = self._backbone if backbone else self.model
        if images is not None:
            window.images = True
            options |= seen(network, self.model, images, tokens)
        elif self._has_axes and slots is not None:
            options["position_ids"] = positions + self.adapters.offsets(slots)[:, None]
        if window.live and (survey := self.live.first(window.start is not None)) is not None:
            window = replace(window, survey=survey)
        places = positions
        if window.copies:  # to all but attention, rows of their own
            places = positions.reshape(-1, 1)
            chosen = chosen and chosen.repeated(window.copies)
            lengths = None if lengths is None else lengths.repeat_interleave(window.copies)
        with evaluating(self._modules), ExitStack() as rules:
            rules.enter_context(self.adapters.chosen(chosen, places))
            for rule in self._rules:
                if lengths is None:
                    lengths = places.amax(dim=1) + 1
                rules.enter_context(rule.during(places, lengths))
            rules.enter_context(self.fused.during(window))
            rules.enter_context(self._few_rows.during(tokens.numel()))
            read = None if backbone else rules.enter_context(self.heads.reading())
            out = run_rows(network, self.blocks.cache, window, tokens, positions, **options)
            if read is not None:
                out.logits = read(out.logits)
        if window.survey is not None:
            self.live.judge(window.survey, window.start is not None, type(self.model).__name__)
        return out
