"""Random sequences of everything that happens to rows, against a plain list of texts.

A text's keys are a chain (``chain_lane``), so that any that is not its own shows. After every step
each row holds what its text says, and the accounts of memory are drawn up anew (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from unittest import mock

import torch
from chain_lane import CPU, ChainLane, chain, combination, expected, logits_of, said
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger import check_memory
from state_chain_lane import StateChainLane

from descant.models.cache.blocks import store
from descant.models.cache.blocks.prefix_tree import UNIT, PrefixTree
from descant.models.errors import OutOfPages
from descant.models.lanes import prefill
from descant.models.upload import Mirror

ROWS, CAPACITY = 6, 112
ADDED = (0, 1, 2 * 17, 2 * 32 + 1, 2 * 50 + 1)  # nothing, an adapter, answers steered from there
some = st.integers(0, 40)
row_numbers = st.integers(0, ROWS - 1)


def together(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two texts have in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def tail(length: int, seed: int) -> list[int]:
    """Tokens; those of the same seed begin alike."""
    return [1 + (seed * (i + 3)) % 5 for i in range(length)]


class Laws(RuleBasedStateMachine):
    """A lane and the texts that its rows have."""

    page_size: ClassVar[int] = 16
    shares: ClassVar[bool] = True
    reads_all: ClassVar[bool] = False
    apart: ClassVar[bool] = False  # the device's memory from the host's
    roomy: ClassVar[bool] = False  # most that was read stays
    states: ClassVar[bool] = False  # a layer has a state, which holds what a row has read
    by_token: ClassVar[bool] = False  # and goes on from it token by token
    says: ClassVar[str] = "logits and rewards"  # which a lane with states keeps with its rows

    def __init__(self) -> None:
        super().__init__()
        evict = PrefixTree._evict

        def evicted(tree: PrefixTree, page: int) -> None:
            self.sure.clear()
            self.certain.clear()
            evict(tree, page)

        self.patches = [
            mock.patch.object(PrefixTree, "_evict", evicted),
            mock.patch.multiple(prefill, CHUNK=48, PADDING=30, ALIKE=16),
            mock.patch.object(Mirror, "on_host", lambda device: not self.apart),
        ]
        for patch in self.patches:
            patch.start()
        self.texts: list[tuple[int, list[int]]] = []  # an adapter and tokens, per row
        self.read: list[tuple[int, list[int]]] = []  # that may be found again
        self.past: list[list[int]] = [tail(CAPACITY, 1)]
        self.reading: Any = None
        self.prompts: list[tuple[int, list[int]]] = []  # that are being read
        self.sure: list[tuple[int, list[int]]] = []  # that will be found again
        self.certain: list[tuple[int, list[int]]] = []  # that those who are read now find
        self.possible: list[tuple[int, list[int]]] = []  # that these may find
        self.capacity = CAPACITY

    @initialize(pages=st.integers(5, 20))
    def begin(self, pages: int) -> None:
        pages = 200 if self.roomy else pages
        numbers = 11 * store.PAGE * 8
        patch = mock.patch.object(store, "BYTES", pages // 3 * numbers)
        self.patches.append(patch)
        patch.start()
        self.lane: Any = ChainLane(self.page_size, self.shares, self.reads_all)
        if self.states:
            language = self.says == "logits"
            self.lane = StateChainLane(self.shares, self.reads_all, self.by_token, language)
        self.tokens = pages * self.page_size if self.page_size and not self.roomy else None
        self.lane.reserve(ROWS, CAPACITY, self.tokens)

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()

    # What joins and leaves

    def prompt(self, base: int, cut: int, length: int, seed: int) -> list[int]:
        """A beginning of a text that was there before, or of none, and a tail."""
        known = [*self.past, *(text for _, text in self.texts)]
        begun = known[base % len(known)][: 8 * cut]
        return [*begun, *tail(length, seed)][: CAPACITY - 8] or [2]

    prompts = st.lists(
        st.tuples(some, st.integers(0, 10), some, st.integers(1, 4), st.sampled_from(ADDED)),
        min_size=1, max_size=3,
    )  # fmt: skip

    @precondition(lambda self: self.reading is None and len(self.texts) < ROWS)
    @rule(drawn=prompts, again=st.booleans(), at_once=st.booleans())
    def arrive(self, drawn: Sequence[Any], again: bool, at_once: bool) -> None:
        prompts = [(adapter, self.prompt(*how)) for *how, adapter in drawn]
        prompts = (prompts + prompts[:1] * again)[: ROWS - len(self.texts)]
        distinct = {(adapter, tuple(text)) for adapter, text in prompts}
        needed = sum(
            self.lane.pages_needed(text, combination(adapter)) for adapter, text in distinct
        )
        free = self.lane.free_pages
        try:
            self.reading = self.lane.admit(
                [text for _, text in prompts], [combination(added) for added, _ in prompts]
            )
        except OutOfPages:
            assert free is not None and needed > free == self.lane.free_pages
        else:
            self.prompts, self.certain, self.possible = prompts, [*self.sure], [*self.read]
            if at_once:
                self.read_on(CAPACITY)

    @precondition(lambda self: self.reading is not None)
    @rule(steps=st.integers(1, 4), leaving=row_numbers)
    def read_on(self, steps: int, leaving: int = ROWS) -> None:
        for _ in range(steps):
            try:
                next(self.reading)
            except StopIteration as end:
                if leaving < len(self.texts):
                    self.leave(leaving, kept=False)
                self.joined(end.value())
                return

    def joined(self, rows: Sequence[int]) -> None:
        assert sorted(rows) == [*range(len(self.texts), len(self.texts) + len(rows))]
        by_row = dict(zip(rows, self.prompts, strict=True))
        self.texts += [(adapter, [*text]) for _, (adapter, text) in sorted(by_row.items())]
        seen: list[Any] = []
        for row in sorted(rows):
            adapter, text = self.texts[row]
            cached = self.lane.cached_tokens(row)
            if (adapter, text) in seen:
                assert cached == len(text) * self.lane.blocks.shares, "read once for all"
            else:
                others = [pair for pair in self.prompts if pair != (adapter, text)]
                most = max(map(self.shared(adapter, text), [*self.possible, *others]), default=0)
                least = max(map(self.shared(adapter, text), self.certain), default=0)
                assert cached <= most, "found, and nobody has read it"
                assert cached >= least, "read before, and not found"
            seen.append((adapter, text))
        self.keep(*self.prompts)
        self.reading, self.prompts = None, []

    def shared(self, adapter: int, text: Sequence[int]) -> Callable[[tuple[int, list[int]]], int]:
        """How much of a text may be found, of what another has read."""
        unread = 0 if self.reads_all or self.says == "logits" else 1

        def of(known: tuple[int, list[int]]) -> int:
            length = min(together(known[1], text), len(text) - unread)
            for start in (adapter // 2, known[0] // 2):
                length = min(length, start or length)
            length -= 0 if self.states else length % UNIT  # states are found as they were kept
            return length * (known[0] % 2 == adapter % 2)

        return of

    def keep(self, *texts: tuple[int, list[int]]) -> None:
        """What was read may be found, if anything may."""
        self.past += [text for _, text in texts]
        if self.shares:
            self.read += [(adapter, [*text]) for adapter, text in texts]
            if (self.page_size or self.roomy) and not self.states:
                unread = 0 if self.reads_all else 1  # the next step may read the last token
                self.sure += [(adapter, text[: len(text) - unread]) for adapter, text in texts]
            self.possible += [(adapter, [*text]) for adapter, text in texts]

    @precondition(lambda self: self.reading is not None)
    @rule(rarely=st.integers(0, 4))
    def abandon(self, rarely: int = 0) -> None:
        if rarely:
            return
        self.keep(*self.prompts)
        self.sure.clear()  # only some of them were read
        self.reading.close()
        self.lane.discard()
        self.reading, self.prompts = None, []

    @precondition(lambda self: self.texts)
    @rule(row=row_numbers, kept=st.booleans())
    def leave(self, row: int, kept: bool) -> None:
        self.release(row % len(self.texts), kept)

    def release(self, row: int, kept: bool) -> None:
        adapter, text = self.texts[row]
        length = self.lane.rows.counts()[0][row]
        if kept:
            self.keep((adapter, text[:length]))
        assert self.lane.release(row, text if kept else ()) == len(self.texts) - 1
        last = self.texts.pop()
        if row < len(self.texts):
            self.texts[row] = last

    # What is read

    def with_room(self, work: Callable[[], Any]) -> Any:
        """Do it; whoever came in last leaves where there is no room."""
        while self.texts:
            try:
                return work()
            except OutOfPages:
                assert not self.roomy and self.page_size
                if self.reading is not None:
                    self.abandon()
                else:
                    self.release(len(self.texts) - 1, kept=True)
        return None

    @precondition(lambda self: self.texts and not self.reads_all and "logits" in self.says)
    @rule()
    def step(self) -> None:
        logits = self.with_room(self.lane.logits)
        for row, (adapter, text) in enumerate(self.texts):
            assert torch.equal(logits[row], logits_of(said(adapter, text)))

    @precondition(lambda self: self.texts and "rewards" in self.says)
    @rule(count=st.integers(0, 3))
    def candidates(self, count: int) -> None:
        count += self.reads_all and not count
        if self.longest + count > self.capacity:
            return
        drawn = torch.arange(1, count + 1)
        of = lambda: self.lane.rewards(drawn.expand(len(self.texts), count))  # noqa: E731
        found = self.with_room(of)
        if found is None:
            return
        for row, (adapter, text) in enumerate(self.texts):
            wanted = [said(adapter, [*text, 1 + i]) for i in range(count)]
            assert found[0][row, :, 0].tolist() == wanted
            assert found[1] is None or found[1][row, 0] == said(adapter, text)
        if self.reads_all and count:
            choice = torch.arange(len(self.texts)) % count
            self.lane.keep(choice, drawn[choice])
            for (_, text), token in zip(self.texts, drawn[choice].tolist(), strict=True):
                text.append(token)

    @precondition(lambda self: self.texts and not self.reads_all and "logits" in self.says)
    @rule(count=st.integers(1, 3))
    def last_positions(self, count: int) -> None:
        lengths = self.lane.rows.counts()[0]
        said_before = [block.known.said for block in self.lane.blocks.held] if self.states else []
        logits = self.with_room(lambda: self.lane.logits_of_last(count))
        for row, (adapter, text) in enumerate(self.texts):
            known = len(text) if not self.states else len(text) - lengths[row] + said_before[row]
            for back in range(min(count, known)):
                known = text[: len(text) - back]
                assert torch.equal(logits[row, -1 - back], logits_of(said(adapter, known)))

    @rule(ahead=st.integers(0, 9))
    def extend(self, ahead: int) -> None:
        if self.texts and self.longest + ahead > self.capacity:
            return
        lacking = self.lane.extend(ahead)
        assert lacking == 0 or (self.page_size and not self.roomy)
        if self.page_size and not lacking:
            for block, (_, text) in zip(self.lane.blocks.held, self.texts, strict=True):
                assert len(block.pages) >= self.lane.pages_of(len(text) + ahead)

    @precondition(lambda self: self.texts)
    @rule(saved=st.booleans())
    def save(self, saved: bool) -> None:
        if saved:
            self.with_room(self.lane.save)

    # What happens to texts

    @property
    def longest(self) -> int:
        return max(len(text) for _, text in self.texts)

    @precondition(lambda self: self.texts and self.longest < self.capacity)
    @rule(token=st.integers(1, 4))
    def feed(self, token: int) -> None:
        self.lane.feed(torch.full((len(self.texts),), token))
        for _, text in self.texts:
            text.append(token)

    @precondition(lambda self: self.texts)
    @rule(
        rows=st.sets(row_numbers, min_size=1), token=st.integers(1, 4), times=st.integers(1, 40),
        read=st.booleans(),
    )  # fmt: skip
    def feed_some(self, rows: set[int], token: int, times: int, read: bool) -> None:
        chosen = sorted({row % len(self.texts) for row in rows})
        chosen = [row for row in chosen if len(self.texts[row][1]) + times <= self.capacity]
        for _ in range(times if chosen else 0):
            index = torch.tensor(chosen)
            self.lane.rows.feed_rows(torch.full((len(chosen),), token), index, chosen)
            for row in chosen:
                self.texts[row][1].append(token)
        if read and "rewards" in self.says:
            self.candidates(1)

    copies = st.dictionaries(row_numbers, row_numbers, min_size=1)
    changes = st.lists(
        st.tuples(row_numbers, st.integers(0, 10), some, st.integers(1, 4)), min_size=1, max_size=3
    )

    @precondition(lambda self: self.texts)
    @rule(changes=changes)
    def rewrite(self, changes: Sequence[Any]) -> None:
        edits = {}
        for row, tenths, length, seed in changes:
            text = self.texts[row % len(self.texts)][1]
            kept = tenths * len(text) // 10
            new = tail(length, seed)[: self.capacity - kept]
            edits[row % len(self.texts)] = (kept, new if kept + len(new) else [3])
        self.lane.rows.rewrite(edits)
        for row, (kept, new) in edits.items():
            self.texts[row][1][kept:] = new

    @precondition(lambda self: self.texts)
    @rule(drawn=copies, changes=changes)
    def select(self, drawn: dict[int, int], changes: Sequence[Any]) -> None:
        self.copy(drawn)
        self.rewrite(changes)

    @precondition(lambda self: self.texts)
    @rule(drawn=copies)
    def copy(self, drawn: dict[int, int]) -> None:
        count = len(self.texts)
        pairs = {target % count: source % count for target, source in drawn.items()}
        targets, sources = [*pairs], [*pairs.values()]
        free, lengths = self.lane.free_pages, self.lane.rows.counts()[0]
        self.lane.copy_rows(sources, targets)
        before = [(adapter, [*text]) for adapter, text in self.texts]
        for target, source in pairs.items():
            self.texts[target] = before[source][0], [*before[source][1]]
            left, was = self.lane.rows.counts()[0][target], lengths[source]
            if left != was:  # the page that is not full is read again
                assert free is not None and free < len(pairs)
                assert left == was - was % self.page_size

    @rule(rarely=st.integers(0, 4))
    def forget(self, rarely: int = 0) -> None:
        if rarely:
            return
        self.lane.forget_prefixes()
        self.read, self.sure, self.certain = [], [], []

    @precondition(lambda self: self.reading is None)
    @rule(rarely=st.integers(0, 4))
    def begin_again(self, rarely: int = 0) -> None:
        if rarely:
            return
        self.lane.reserve(ROWS, CAPACITY, self.tokens)
        self.texts = []
        self.capacity = self.lane.rows.capacity

    @precondition(lambda self: self.capacity == CAPACITY)
    @rule()
    def grow(self) -> None:
        self.capacity = CAPACITY + 24
        self.lane.grow(self.capacity, ROWS)

    # What is always so

    @invariant()
    def rows_hold_their_texts(self) -> None:
        if not hasattr(self, "lane"):
            return
        rows = self.lane.rows
        assert rows.all_texts() == [text for _, text in self.texts]
        lengths, ends = rows.counts()
        assert ends == [len(text) for _, text in self.texts] and rows.count == len(ends)
        used = slice(rows.count)
        assert rows.lengths[used].tolist() == lengths and rows.ends[used].tolist() == ends
        assert rows.adapters[used].tolist() == [adapter for adapter, _ in self.texts]
        for row, ((adapter, text), length) in enumerate(zip(self.texts, lengths, strict=True)):
            assert 0 <= length <= len(text)
            wanted = expected(adapter, text[:length])
            for pair, numbers in zip(self.lane.held(row, length), wanted, strict=False):
                assert torch.equal(pair[0], numbers[0]) and torch.equal(pair[1], numbers[1])
            if self.states and self.lane.blocks.held[row].known.read == length:
                self.lane.check_state(row, adapter, text)

    @invariant()
    def accounts_are_right(self) -> None:
        if hasattr(self, "lane"):
            check_memory(self.lane)


law = settings(
    max_examples=50, stateful_step_count=50, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def laws(**named: Any) -> Any:
    case = type("Case", (Laws,), named).TestCase
    case.settings = law
    return case


TestPagesOf16 = laws(page_size=16)
TestPagesOf32 = laws(page_size=32)
TestPagesThatReadAll = laws(page_size=16, reads_all=True)
TestPagesApart = laws(page_size=32, apart=True)
TestPagesThatShareNothing = laws(page_size=16, shares=False)
TestManyPages = laws(page_size=32, roomy=True)
TestRows = laws(page_size=0)
TestRowsThatReadAll = laws(page_size=0, reads_all=True)
TestRowsThatKeepNothing = laws(page_size=0, shares=False)
TestManyRows = laws(page_size=0, roomy=True)
TestStates = laws(states=True, says="logits", page_size=0)
TestStatesByToken = laws(states=True, says="logits", page_size=0, shares=False, by_token=True)
TestStatesOfRewards = laws(states=True, says="rewards", page_size=0)
TestStatesThatReadAll = laws(states=True, says="rewards", page_size=0, reads_all=True)


def test_a_chain_tells_texts_apart() -> None:
    assert CPU.type == "cpu" and chain(0, [1, 2]) != chain(1, [1, 2]) != chain(1, [2, 2])
    assert chain(0, [1, 2, 3])[:2] == chain(0, [1, 2])
    assert said(0, [1, 2]) != said(0, [2, 1])
