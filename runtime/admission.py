"""Who gets slots next, and who makes room: fair between clients, and nothing here knows of models.

Each client has a count of what it has been given: slots times steps, and tokens read. The waiting
client with the least comes next (virtual token counters; Sheng et al. 2024, a deficit round robin
whose costs are known afterwards). One that was idle is given no credit for that. Of one client,
the call with the least comes next, so that many rows do not hold up one that came behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")
QUANTUM = 16  # steps with slots, before somebody has to make room
AHEAD = 64  # slots times steps that one client may be given more than another that waits
PATIENCE = 64  # steps in which smaller requests pass one that waits for many slots
TOKENS = 16  # tokens that are read cost as much as one that is drawn


@dataclass(eq=False)
class Entry(Generic[T]):
    """Something that waits for slots, or has some.

    Attributes:
        item: of the caller.
        client, call: whose it is, and in which of its calls it came.
        slots: that it takes.
        turn: its place among all.
        held: steps that it has had slots for since it got them; None while it waits.
        passed: steps in which it was the first, and there were too few slots for it.
    """

    item: T
    client: Hashable
    call: Hashable
    slots: int
    turn: int
    held: int | None = None
    passed: int = 0


class Admission(Generic[T]):
    """Entries that wait for some of a number of slots, and those that have them.

    Attributes:
        slots: how many there are.
        waiting, running: the entries, by the caller's keys.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: dict[int, Entry[T]] = {}
        self.running: dict[int, Entry[T]] = {}
        self._served: dict[Hashable, float] = {}  # to each client that is here
        self._served_calls: dict[Hashable, float] = {}
        self._turns = count()
        self._promised: int | None = None  # the key of one that others made room for

    def add(self, key: int, item: T, slots: int, client: Hashable, call: Hashable) -> None:
        """Have something wait."""
        if client not in self._served:
            self._served[client] = min(self._served.values(), default=0.0)
        self._served_calls.setdefault((client, call), 0.0)
        self.waiting[key] = Entry(item, client, call, slots, next(self._turns))

    def remove(self, key: int) -> bool:
        """Let something go; whether it waited."""
        waited = key in self.waiting
        entry = self.waiting.pop(key, None) or self.running.pop(key, None)
        if entry is not None:
            here = [*self.waiting.values(), *self.running.values()]
            if all(other.client != entry.client for other in here):
                del self._served[entry.client]
            if all((other.client, other.call) != (entry.client, entry.call) for other in here):
                del self._served_calls[entry.client, entry.call]
        return waited

    def start(self, key: int, tokens: int = 0) -> None:
        """Give one that waits its slots, for which so many tokens are read."""
        entry = self.running[key] = self.waiting.pop(key)
        entry.held = entry.passed = 0
        self._give(entry, tokens / TOKENS)

    def wait(self, key: int, slots: int | None = None) -> None:
        """Have one with slots wait again, at its old place; for so many, where that has changed."""
        entry = self.waiting[key] = self.running.pop(key)
        entry.held, entry.slots = None, entry.slots if slots is None else slots

    def step(self) -> None:
        """Count a step of all that have slots."""
        for entry in self.running.values():
            assert entry.held is not None
            entry.held += 1
            self._give(entry, entry.slots)

    def charge(self, client: Hashable, call: Hashable, cost: float) -> None:
        """Count what a client was given beside slots, in one of its calls."""
        if client in self._served:
            self._served[client] += cost
        if (client, call) in self._served_calls:
            self._served_calls[client, call] += cost

    def served(self, client: Hashable) -> float:
        """What a client has been given; of one that is not here, no less than the others."""
        return self._served.get(client, min(self._served.values(), default=0.0))

    def joining(self, free: int) -> list[tuple[int, Entry[T]]]:
        """Those who may have the free slots now, the first first; others pass one that is large.

        Nobody passes one that has been passed for long.
        """
        chosen = list[tuple[int, Entry[T]]]()
        for key, entry in self._promised_first() if free else ():
            if entry.slots <= free:
                free -= entry.slots
                chosen.append((key, entry))
            elif entry.passed >= PATIENCE:
                break
            if not free:
                break
        return chosen

    def making_room(self, free: int) -> list[tuple[int, Entry[T]]]:
        """Those who are to wait again, so that the first that waits has its slots; none if it may.

        The first that waits is counted as passed, where it does not fit.
        """
        first = next(self._in_order(), None) if self.waiting else None
        if first is None or first[1].slots <= free:
            return []
        [_, wanting], chosen = first, list[tuple[int, Entry[T]]]()
        wanting.passed += 1
        held = self._held()
        for key, entry in self._youngest():
            if free < wanting.slots and self._yields(entry, wanting, held):
                held[entry.client] -= entry.slots
                free += entry.slots
                chosen.append((key, entry))
        if free < wanting.slots:
            return []
        self._promised = first[0]
        return chosen

    def _yields(self, entry: Entry[T], wanting: Entry[T], held: Counter[Hashable]) -> bool:
        """Whether one with slots makes room for one that waits, by the slots that clients have."""
        assert entry.held is not None
        if entry.client == wanting.client or entry.held < QUANTUM:
            return False
        if wanting.passed >= PATIENCE:
            return True
        share = max(1.0, self.slots / len(self._served))
        if held[entry.client] > share >= held[wanting.client] + wanting.slots:
            return True
        return self._served[entry.client] - self._served[wanting.client] >= AHEAD

    def _promised_first(self) -> Iterator[tuple[int, Entry[T]]]:
        """Those who wait, in their order; before them one that others have made room for."""
        promised, self._promised = self._promised, None
        if promised in self.waiting:
            assert promised is not None
            yield promised, self.waiting[promised]
        yield from (pair for pair in self._in_order() if pair[0] != promised)

    def _in_order(self) -> Iterator[tuple[int, Entry[T]]]:
        """Those who wait: by what their clients and calls were given, and by their turns.

        What each would be given counts for those behind it.
        """
        lines: dict[Hashable, dict[Hashable, list[tuple[int, int]]]] = {}
        for key, entry in self.waiting.items():
            calls = lines.setdefault(entry.client, {})
            calls.setdefault(entry.call, []).append((entry.turn, key))
        clients = []
        for client, calls in lines.items():
            own = []
            for call, turns in calls.items():
                turns.sort(reverse=True)
                own.append((self._served_calls[client, call], turns[-1][0], turns))
            heapify(own)
            clients.append((self._served[client], own[0][1], own))
        heapify(clients)
        while clients:
            served, _, own = clients[0]
            served_call, _, turns = own[0]
            _, key = turns.pop()
            entry = self.waiting[key]
            yield key, entry
            if turns:
                heapreplace(own, (served_call + entry.slots, turns[-1][0], turns))
            else:
                heappop(own)
            if own:
                heapreplace(clients, (served + entry.slots, own[0][1], own))
            else:
                heappop(clients)

    def _youngest(self) -> list[tuple[int, Entry[T]]]:
        """Those with slots: of the clients that were given most, and the newest first."""
        served = self._served
        order = [*self.running.items()]
        return sorted(order, key=lambda pair: (-served[pair[1].client], -pair[1].turn))

    def _held(self) -> Counter[Hashable]:
        held = Counter[Hashable]()
        for entry in self.running.values():
            held[entry.client] += entry.slots
        return held

    def _give(self, entry: Entry[T], cost: float) -> None:
        self._served[entry.client] += cost
        self._served_calls[entry.client, entry.call] += cost
