"""Room for texts in lanes whose rows share pages: who may come in, and who has to wait."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ...models.errors import OutOfPages
from ..requests.request import Request, length_of
from .batch import Batch
from .row_map import RowMap, widest

Pages = dict[int, int]  # per lane that has them, or per pool


def spare_pages(batch: Batch) -> Pages:
    """Pages that new requests could take: those in use soon need more, a hundredth of all.

    Where every slot has room for its longest text, all of them.
    """
    scarce, spare = batch.tokens < batch.most * batch.capacity, dict[int, int]()
    for number, lane in enumerate(batch.bound.lanes):
        if lane.free_pages is not None:
            kept = lane.all_pages // 100 if scarce and lane.rows.count else 0
            spare[number] = lane.free_pages - kept
    return spare


def pages_to_begin(batch: Batch, request: Request, answer: Sequence[int] = ()) -> Pages:
    """Pages that the prompts of a request take, with what it has drawn and one token more."""
    needed: Pages = {}
    for row_map in _paged(batch):
        if row_map.needs(request):
            lane, text = batch.bound.lanes[row_map.term.lane], row_map.text(request, answer)
            combination = row_map.combination(batch.bound, request)
            pages = lane.pages_needed(text, combination)
            needed[row_map.term.lane] = needed.get(row_map.term.lane, 0) + pages
    return needed


def pages_to_end(batch: Batch, request: Request, answer: Sequence[int]) -> Pages:
    """Pages that a request takes when it has this answer, if it shares none."""
    needed, more = dict[int, int](), 1 + widest(batch.bound.plan, request)
    for row_map in _paged(batch):
        if row_map.needs(request):
            number, text = row_map.term.lane, row_map.text(request, answer)
            pages = batch.bound.lanes[number].pages_of(length_of(text) + more)
            needed[number] = needed.get(number, 0) + pages
    return needed


def extend(batch: Batch, drafted: int = 0) -> Pages:
    """Room for the next token of every row, and its candidates; or how many pages pools lack.

    The models of a search read what is drawn at once.

    Args:
        batch: its rows.
        drafted: tokens that come before the next one, at most, each with candidates of its own.
    """
    lacking: Pages = {}
    ahead = max(batch.widest * (1 + drafted), int(batch.bound.plan.search is not None))
    for lane, ranks in batch.paged:
        if pages := lane.extend(drafted + ahead * ranks):
            lacking[lane.pool] = pages
    return lacking


def has_rows(batch: Batch, slot: int, pools: Container[int]) -> bool:
    """Whether a slot has rows in any of these pools."""
    lanes = batch.bound.lanes
    held = [row_map.term.lane for row_map in batch.row_maps if row_map.held[slot] is not None]
    return any(lanes[lane].pool in pools for lane in held)


def check_it_fits(batch: Batch, request: Request, rows: int = 1) -> None:
    """Refuse a request that would not fit if it were alone, with so many rows.

    Raises:
        OutOfPages: says how many pages there are.
    """
    plan, needed = batch.bound.plan, dict[int, int]()
    for row_map in _paged(batch):
        if row_map.needs(request):
            number, prompt = row_map.term.lane, row_map.prompt(request)
            length = length_of(prompt)
            lane, tokens = batch.bound.lanes[number], length + request.max_new_tokens
            shared, more = lane.shared_pages(length), widest(plan, request)
            more += plan.tokens_ahead(request.values)
            more = max(more, int(plan.search is not None))  # an ended row draws once more
            pages = shared + rows * (lane.pages_of(tokens + more) - shared)
            needed[number] = needed.get(number, 0) + pages
    for number, pages in needed.items():
        if pages > (all_pages := batch.bound.lanes[number].all_pages):
            name = batch.bound.lane_names[number]
            problem = (
                f"the request takes {pages} pages of {name}'s cache, and there are {all_pages}"
            )
            raise OutOfPages(problem, "shorten the prompt, or ask for fewer tokens", topic="memory")


def _paged(batch: Batch) -> Sequence[RowMap]:
    """The row maps whose lanes have pages."""
    paged = [id(lane) for lane, _ in batch.paged]
    lanes = batch.bound.lanes
    return [row_map for row_map in batch.row_maps if id(lanes[row_map.term.lane]) in paged]
