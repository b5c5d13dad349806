"""The accounts of a lane's memory, drawn up anew: who has each page, and what the tree says of it.

Nothing here asks the code for what it counts; what it counts is held against this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from chain_lane import chain, expected

from descant.models.cache.blocks.contiguous import ContiguousBlocks
from descant.models.cache.blocks.paged import PagedBlocks
from descant.models.cache.blocks.prefix_tree import UNIT, PrefixTree


def kept_texts(tree: PrefixTree) -> Iterator[tuple[Any, list[int], Any]]:
    """The adapter, the tokens and the node of everything that a tree keeps."""
    left: list[Any] = [(None, list[int](), tree._root)]
    while left:
        key, tokens, node = left.pop()
        if tokens:
            yield key, tokens, node
        for unit, child in node.children.items():
            begins = [] if tokens else [unit[0]]
            left.append((*(begins or [key]), [*tokens, *unit[len(begins) :]], child))


def check_tree(tree: PrefixTree, held: Counter[int]) -> dict[int, int]:
    """Pages are free, idle or in use, each once; how many positions the tree keeps of each.

    Args:
        held: by how many rows each page is.
    """
    pages, kept, nodes = tree.pages, dict[int, int](), Counter[int]()
    for _, tokens, node in kept_texts(tree):
        assert node.position == (len(tokens) - UNIT) % tree.size
        assert node in tree._nodes[node.page]
        nodes[node.page] += 1
        kept[node.page] = max(kept.get(node.page, 0), node.position + UNIT)
    assert {page: len(known) for page, known in tree._nodes.items()} == nodes
    for known in tree._nodes.values():
        positions = [node.position for node in known]
        assert positions == sorted(set(positions)), "a page is in two texts at one place"
    everyone = range(1, pages.count)
    idle = {page for page in everyone if page in kept and not held[page]}
    free = {page for page in everyone if page not in kept and not held[page]}
    assert set(pages._idle) == idle and pages.idle == len(idle)
    assert sorted(pages._free) == sorted(free)
    assert pages.available == len(free) + len(idle)
    for page in everyone:
        assert pages._rows[page] == held[page] and pages.in_use(page) == (held[page] > 0)
        assert pages._kept[page] == kept.get(page, 0)
    assert not held[0] and 0 not in kept, "the scratch page belongs to nobody"
    return kept


def check_pages(lane: Any, of_chains: bool) -> None:
    """Whose pages are whose; that nobody writes where others read; that the tree tells the truth.

    Args:
        of_chains: whether keys are what ``chain_lane`` makes of a text.
    """
    blocks, rows = lane.blocks, lane.rows
    assert isinstance(blocks, PagedBlocks)
    everyone = [*blocks.held, *blocks._made]
    held = Counter(page for block in everyone for page in block.pages)
    assert all(len(set(block.pages)) == len(block.pages) for block in everyone)
    kept = check_tree(blocks._tree, held)
    size, lengths = blocks.cache.size, rows.counts()[0]
    rows.flush()
    for row, (block, length) in enumerate(zip(blocks.held, lengths, strict=True)):
        table = [*block.pages, *[0] * (rows.pages - len(block.pages))]
        assert rows.tables[row].tolist() == table
        assert length <= len(block.pages) * size and block.length <= len(block.pages) * size
        if length < block.length:
            continue  # it goes back before it writes
        for number in range(length // size, len(block.pages)):
            page, begin = block.pages[number], max(length - number * size, 0)
            assert held[page] == 1 and kept.get(page, 0) <= begin, "it writes what others read"
    for key, tokens, node in kept_texts(blocks._tree) if of_chains else ():
        where = node.page, slice(node.position, node.position + UNIT)
        for layer, pair in zip(blocks.cache.layers, expected(key, tokens), strict=True):
            for pool, numbers in zip((layer.keys, layer.values), pair, strict=True):
                assert torch.equal(pool[where], numbers[:, -UNIT:].transpose(0, 1))


def check_store(lane: Any, of_chains: bool) -> None:
    """What a store keeps is what was read, in pages that nobody holds."""
    store = lane.blocks._store
    if store is None:
        return
    kept = check_tree(store._tree, Counter())
    for key, tokens, node in kept_texts(store._tree) if of_chains else ():
        number, own = chain(key, tokens), slice(node.position, node.position + UNIT)
        keys = store._pages[node.page][0]
        assert keys[0, own, 0].tolist() == number[-UNIT:]
    assert set(kept) <= set(store._pages), "a page without memory"
    assert len(store._pages) <= max(store._tree.pages.count - 1, 0)


def check_memory(lane: Any, of_chains: bool = True) -> None:
    """The accounts of either back end."""
    if isinstance(lane.blocks, PagedBlocks):
        check_pages(lane, of_chains)
    else:
        assert isinstance(lane.blocks, ContiguousBlocks)
        assert [block.row for block in lane.blocks.held] == [*range(lane.rows.count)]
        check_store(lane, of_chains)
