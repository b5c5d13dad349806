"""The plan as text: collected terms, forwards, bytes, and the least time that a step takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...formula import Plan, Read, Scalar
from ...formula.algebra.shift_invariance import unnormalised
from ...formula.nodes import StageAddress, of_states, short_text, walk
from ...formula.printer import written_without_rewards
from ...formula.scalar import coefficient_in, parameters
from ...models.cache_config import CacheConfig
from ...models.rewards.function_lane import FunctionLane
from ..batch.cost import RunStats, copy_bandwidth, si_bytes
from ..batch.memory import cache_bytes, fitting_tokens, gpu_memory, peak_bytes
from ..binding.bound import Bound, reward_stages
from ..binding.bound_term import BoundTerm
from ..binding.term_parallel import TermParallel
from ..binding.thinking import thinking_lines
from ..engine.cuda_graphs import StepGraphs
from ..notebook import preformatted
from ..requests.request import DraftOptions
from ..scores.stages import moves_winner
from .component_report import component_lines, drawn_line
from .draft_gains import draft_gains
from .gpus import Devices
from .placement import Placement, placed
from .search_report import search_lines
from .state_report import state_lines

_CONTEXT = 512  # tokens of context for which cache bytes are stated


class Report:
    """A decoder's plan. ``print`` it.

    Attributes:
        formula: the formula's canonical text.
        bytes_per_step: weights that one step reads, once per distinct set.
        forwards: forwards per token, without those of a search's rewards.
        notes: what was dropped, cut or left alone.
        draft: what it is drafted by, where that is known before a run; and ``drafted``, the same
            plan with that draft.
        search: the name of the search that the formula ends in, or None.
    """

    def __init__(
        self,
        bound: Bound,
        params: Mapping[str, float],
        stats: RunStats | None = None,
        graphs: StepGraphs | None = None,
        cache: CacheConfig | None = None,
        draft: DraftOptions | None = None,
        drafted: Bound | None = None,
    ) -> None:
        self._bound, self._params = bound, params
        self._placement: Placement | None = None
        self._batch_size, self._context = 1, _CONTEXT
        self.draft, self.drafted = draft, drafted or bound
        self._stats, self._graphs = stats or RunStats(), graphs
        self._cache = cache or CacheConfig()
        self.formula = bound.plan.formula
        self.search = bound.plan.search[1].name if bound.plan.search else None
        called = {i for i, lane in enumerate(bound.lanes) if isinstance(lane, FunctionLane)}
        search_lanes = bound.search_lanes - called
        steady = [lane for i, lane in enumerate(bound.lanes) if i not in search_lanes | called]
        self.bytes_per_step = sum(lane.footprint().weight_bytes for lane in steady)
        self.forwards, self._search_forwards = len(steady), len(search_lanes)
        self.notes = (*self.drafted.notes, *_raw_text(bound))

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return preformatted(self.text())

    def floor(self, bandwidth: float, batch_size: int = 1, context: int = 0) -> float:
        """The least milliseconds of a step: to read its weights and caches.

        Args:
            bandwidth: bytes per second.
            batch_size: requests in the step.
            context: tokens that each of them has in the caches.
        """
        caches = cache_bytes(self._bound, batch_size * self._rows(), context)
        return float((self.bytes_per_step + caches) / bandwidth * 1e3)

    def place(self, devices: Devices, batch_size: int, context: int) -> None:
        """Say from now on what goes where on some GPUs, and what a step costs there.

        Args:
            devices: the GPUs.
            batch_size: requests at once, and ``context``, tokens of each.

        Raises:
            ArgumentError: it does not fit, or a model names a GPU that there is not.
        """
        share, rows = self._cache.gpu_memory_utilization, batch_size * self._rows()
        placement = placed(self.drafted, devices, share, rows, context)
        placement.check()
        self._placement, self._batch_size, self._context = placement, batch_size, context

    def text(self, bandwidth: float | None = None, batch_size: int = 0, context: int = 0) -> str:
        """The report, by the arguments of ``floor``; a bandwidth that is left out is measured."""
        batch_size, context = batch_size or self._batch_size, context or self._context
        bound, device = self._bound, self._bound.device
        measured = bandwidth or (0.0 if self._placement else copy_bandwidth(device))
        weights, held, work = peak_bytes(self.drafted, batch_size * self._rows(), context)
        _, caches, _ = peak_bytes(bound, batch_size * self._rows(), context)
        floor = "" if self._placement else self._floor(measured, bandwidth, batch_size, context)
        lines = [f"formula     {self.formula}", *self._parameters(), ""]
        lines += _table(("term", "coefficient", "lane", "reads"), self._terms())
        inside = [(address, rerank) for address, rerank in bound.plan.reranks if address[0]]
        after = [((None, number), stage) for number, stage in enumerate(bound.plan.stages)]
        for address, stage in (*inside, *after):
            where = "inside" if address[0] else "then"
            lines += ["", f"{where:12}{written_without_rewards(stage)}", *self._rewards(address)]
        conditional = self._conditional()
        lines += [*conditional, *self._normalised(), *self._constrained()]
        many = ("at most " if conditional else "") + _count(self.forwards, "forward")
        if self._search_forwards:
            many += f" ({self._search_forwards} more where answers are scored)"
        head = ("lane", "weights", "rows", "queries", "reads", "cache")
        lines += ["", *_table(head, self._lanes())]
        lines += [
            "",
            f"per token   {many}, {si_bytes(self.bytes_per_step)} of weights, {si_bytes(caches)} "
            f"of caches ({_count(batch_size, 'request')} of {context} tokens)",
            *component_lines(bound, self._params, batch_size),
            *search_lines(bound.plan, self._params),
            *([] if self._placement else [floor]),
            *state_lines(self.drafted, self.draft is not None),
            *thinking_lines(self.drafted),
            *(f"drafts      {gain.line()}" for gain in draft_gains(self.drafted, self.draft)),
            f"memory      {si_bytes(weights + held + work)}: {si_bytes(weights)} of weights, "
            f"{si_bytes(held)} of caches, {si_bytes(work)} to work in",
            *([] if self._placement else self._fitting(batch_size, context)),
            f"vocabulary  {bound.vocabulary} tokens; ends at {sorted(bound.eos) or 'no token'}",
        ]
        if self._placement is not None:
            lines += self._placement.lines()
        elif bound.term_parallel is not None:
            lines.append(f"processes   {_processes(bound.term_parallel, bound.lane_names)}")
        lines += _on_gpu(bound, self._graphs)
        if self._stats.seconds and measured:  # a service times no formula by itself
            lines.append(f"last run    {self._stats.summary(measured)}")
        if self._stats.prompt_tokens:
            prompts = self._stats.prompts(self._cache.enable_prefix_caching)
            lines.append(f"prompts     {prompts}")
        if self._stats.rounds:
            lines.append(f"drafted     {self._stats.draft_summary()}")
        if self._stats.components:
            lines.append(drawn_line(bound, self._stats.components))
        for name, share in self._stats.mapped_shares().items():
            probability = f"{share:.1%} of align({name})'s probability"
            lines.append(f"mapped      {probability} went to the formula's tokens")
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])

    def _floor(self, measured: float, said: float | None, batch_size: int, context: int) -> str:
        source = "given" if said else "measured copy bandwidth"
        least = f"{self.floor(measured, batch_size, context):.3g} ms at {measured / 1e9:.3g} GB/s"
        return f"floor       {least} ({self._bound.device}, {source})"

    def peak_bytes(self, batch_size: int = 1, context: int = _CONTEXT) -> int:
        """Bytes that so many requests at once hold at most, of so many tokens with the answer."""
        return sum(peak_bytes(self.drafted, batch_size * self._rows(), context))

    def _rows(self) -> int:
        """Rows of a request; 1 for a search of which they depend on a parameter without a value."""
        plan, rows = self._bound.plan, 1
        for scalar in _samples(plan):
            if parameters(scalar.expression) <= self._params.keys():
                rows *= int(plan.value(scalar, self._params))
        return rows

    def _fitting(self, batch_size: int, context: int) -> list[str]:
        """What fits into the memory of GPUs; nothing of a CPU."""
        share, rows = self._cache.gpu_memory_utilization, self._rows()
        tokens = fitting_tokens(self.drafted, share, batch_size * rows, context)
        if tokens is None:
            return []
        memory = gpu_memory(self._bound)
        each = f" on each of {len(memory)} GPUs" if len(memory) > 1 else ""
        requests = _count(tokens // (rows * context), "request")
        where = f"{100 * share:.3g}% of {si_bytes(min(memory))}{each}"
        return [f"fits        {tokens:,} tokens in {where}: {requests} of {context} tokens"]

    def _parameters(self) -> list[str]:
        params, names = self._params, sorted(self._bound.plan.params)
        values = ", ".join(f"{n} = {params[n]:g}" if n in params else f"{n} = ?" for n in names)
        return [f"parameters  {values} (a value per request)"] if names else []

    def _terms(self) -> list[tuple[str, ...]]:
        plan = self._bound.plan
        terms = sorted(self._bound.terms, key=lambda bound_term: plan.spans[bound_term.term])
        lines: list[tuple[str, ...]] = []
        for item in terms:
            reads = [each for each in plan.reads if each.term == item.term]
            lines += [self._line(item, each, _coefficients(plan, each)) for each in reads]
        return lines

    def _rewards(self, address: StageAddress) -> list[str]:
        """The reward models of a stage; none for most stages."""
        for other, _, reward in reward_stages(self._bound.plan):
            if other == address:
                rows = [
                    self._line(each, Read(each.term), coefficient_in(reward, each.term))
                    for each in self._bound.rewards[address]
                ]
                table = _table(("reward", "coefficient", "lane", "reads"), rows)
                return [*table, *dict.fromkeys(map(self._path, self._bound.rewards[address]))]
        return []

    def _path(self, bound_term: BoundTerm) -> str:
        """What a lane scores, and how."""
        assert bound_term.address is not None
        path = "each token's log-probability as it is drawn"
        if not bound_term.language:
            stage = dict(self._bound.plan.reranks).get(bound_term.address)
            texts = f"{stage.k} candidates" if stage else "each answer, when it is scored"
            path = self._bound.lanes[bound_term.lane].plan_line(texts)
        return f"  {_letter(bound_term.lane)}: {path}"

    def _conditional(self) -> list[str]:
        """The terms whose lanes some steps do not run."""
        names = sorted({str(bound_term.term) for bound_term in self._bound.conditional})
        line = f"conditional {', '.join(names)}: run only in steps where a row needs it"
        return ["", line] if names else []

    def _constrained(self) -> list[str]:
        """What answers are to fit, in parentheses too, and what its masks are."""
        constraints = self._bound.constraints
        row = si_bytes(4 * -(-self._bound.vocabulary // 32))
        return [
            f"{'constrained' * (not number):12}{name}: {len(constraint.text)} characters; the host "
            f"makes its masks, {row} per row and step"
            for number, (name, constraint) in enumerate(constraints.named())
        ]

    def _normalised(self) -> list[str]:
        """The terms that are read as log-probabilities, since a shift would change the scores."""
        plan = self._bound.plan
        exact = sorted(str(read) for read in set(plan.reads) - unnormalised(plan))
        why = "by log-softmax, for a shift of the scores would count"
        return ["", f"normalised  {', '.join(exact)}: {why}"] if exact else []

    def _line(self, bound_term: BoundTerm, read: Read, coefficient: str) -> tuple[str, ...]:
        term = bound_term.term
        reads = "the response alone" if term.alone else "the prompt"
        reads += " without its images" * term.noimage
        system = bound_term.spec.system or None if term.system is None else term.system
        if system is not None:
            reads += f", system prompt {system[:40]!r}" if system else ", no system prompt"
        if bound_term.spec.template and not term.alone:
            reads += ", its own template"
        if bound_term.token_map is not None:
            reads += ", in its own tokens"
        if read.head:
            reads += f", up to layer {self._bound.heads[read].layer}"
        return (str(read), coefficient, _letter(bound_term.lane), reads)

    def _lanes(self) -> list[tuple[str, ...]]:
        bound = self.drafted
        lines: list[tuple[str, ...]] = []
        many = "".join(f"{number}*" for number in _samples(bound.plan))
        for number, lane in enumerate(bound.lanes):
            bound_terms = [term for term in bound.all_terms if term.lane == number]
            address = bound_terms[0].address
            stage = dict(bound.plan.reranks).get(address) if address is not None else None
            queries = f"{stage.k} candidates" if stage else "1 token"
            queries = "1 draft token" if number in bound.draft_lanes else queries
            if stage and not moves_winner(address, stage):  # type: ignore[arg-type]
                queries = f"1 token, {queries}"
            footprint = lane.footprint()
            kept = footprint.token_bytes * _CONTEXT + footprint.row_bytes
            kept *= len(bound_terms)
            lines.append((
                _letter(number), bound.lane_names[number],
                f"{many}{len(bound_terms)} per request", queries,
                si_bytes(footprint.weight_bytes),
                f"{si_bytes(kept)} per request at {_CONTEXT} tokens",
            ))  # fmt: skip
        return lines


def _coefficients(plan: Plan, read: Read) -> str:
    """A read's coefficient in the formula's sum, and those of the operators that it stands in."""
    coefficients = []
    for coefficient, part in plan.scores.parts:
        if part == read:
            coefficients.append(str(coefficient))
        elif any(inner == read for inner in walk(part)):
            coefficients.append(f"{coefficient} in {short_text(part)}")
    if not coefficients:  # the term is there for a number of the state alone
        for node in (*plan.nodes, *plan.stages):
            for number, scores in of_states(node):
                if any(inner == read for inner in walk(scores)):
                    coefficients.append(f"in {number.what}")
    return " and ".join(dict.fromkeys(coefficients))


def _samples(plan: Plan) -> tuple[Scalar, ...]:
    """The numbers by which a search multiplies the rows of a request."""
    _, stage = plan.search or (None, None)
    return tuple(getattr(stage, n) for n in ("n", "beams", "samples", "k") if hasattr(stage, n))


def _raw_text(bound: Bound) -> list[str]:
    """A line on the models that read text as it is, although they have a chat template."""
    names = ", ".join(bound.raw_text_models)
    read = "text is read as it is, messages by the chat template (with template: chat, both)"
    return [f"{names}: {read}"] if names else []


def _processes(term_parallel: TermParallel, names: Sequence[str]) -> str:
    """Which rank holds which lanes, and the cost of the all-reduces."""
    held: dict[int | None, list[str]] = {}
    for owner, name in zip(term_parallel.owners, names, strict=True):
        held.setdefault(owner, []).append(name)
    holds = [f"rank {rank} holds {', '.join(held[rank])}" for rank in held if rank is not None]
    holds += [f"each holds {', '.join(held[None])}"] if None in held else []
    if term_parallel.sent:
        holds.append(f"{si_bytes(term_parallel.sent)} met, in {term_parallel.seconds:.3g} s")
    many = "1 process" if term_parallel.size == 1 else f"{term_parallel.size} processes"
    return f"{many}, this is rank {term_parallel.rank}: {'; '.join(holds)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    padded = [[c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in [head, *rows]]
    return ["  " + "  ".join(cells).rstrip() for cells in padded]


def _letter(lane: int) -> str:
    return chr(ord("A") + lane) if lane < 26 else f"L{lane}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _on_gpu(bound: Bound, graphs: StepGraphs | None) -> list[str]:
    """What is recorded, which lanes attend by masks, and what computes their layers.

    Nothing of a CPU, where nothing is recorded.
    """
    if graphs is None or any(lane.device.type != "cuda" for lane in bound.lanes):
        return []
    lines = [f"step        {line}" for line in graphs.lines()]
    for lane, names in zip(bound.lanes, bound.lane_names, strict=True):
        live, fused = getattr(lane, "live", None), getattr(lane, "fused", None)
        if live is None or fused is None:
            continue
        for part, why in (("steps", live.why_masked), ("prompts", live.why_chunks_masked)):
            lines += [f"attention   {names}: {part} by masks, for {why}"] * (why is not None)
        why = fused.why_plain or (live.why_masked and "its steps go by masks")
        how = "in few launches" if why is None else f"in transformers' code, for {why}"
        lines.append(f"layers      {names}: {how}")
    return lines
