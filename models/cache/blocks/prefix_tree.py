"""What has been read, by its tokens: a tree whose paths are texts, over the pages that hold them.

vLLM finds blocks by a hash of all tokens before them (Kwon et al. 2023, arXiv:2309.06180), SGLang
by a radix tree (Zheng et al. 2024, arXiv:2312.07104). Here a node stands for ``UNIT`` tokens in
one page, so that the beginning of a page is found as well. Tokens are compared, not their hashes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from .pages import Pages

UNIT = 16  # tokens; texts share multiples of it
Unit: TypeAlias = tuple[Hashable, ...]  # so many tokens; before the first ones, the text's key


class Prefix(NamedTuple):
    """The beginning of a text that was read before.

    Attributes:
        tokens: how many, a multiple of ``UNIT``.
        pages: that hold them, one after the other; the last may be used in part.
    """

    tokens: int
    pages: Sequence[int]


@dataclass(eq=False, slots=True)
class _Node:
    """``UNIT`` tokens of a text, after those of its ancestors."""

    parent: _Node | None
    unit: Unit
    page: int
    position: int  # of its first token in its page
    children: dict[Unit, _Node] = field(default_factory=dict)


class PrefixTree:
    """Texts by what sets them apart beside their tokens: the combination that read them.

    Args:
        size: tokens of a page, a multiple of ``UNIT``.
        count: of pages.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size, self.pages = size, Pages(count, self._evict)
        self._root = _Node(None, (), 0, 0)
        self._nodes: dict[int, list[_Node]] = {}  # of each page, in the order of their positions

    def find(self, key: Hashable, tokens: Sequence[int]) -> Prefix:
        """The longest beginning of a text that was read before."""
        found, pages = 0, list[int]()
        children = self._root.children
        for start, unit in _units(key, tokens):
            if (node := children.get(unit)) is None:
                break
            children = node.children
            if start % self.size == 0:
                pages.append(node.page)
            pages[-1] = node.page  # the last of a page's units knows a page that has them all
            found += UNIT
        return Prefix(found, pages)

    def insert(self, key: Hashable, tokens: Sequence[int], pages: Sequence[int]) -> None:
        """Keep a text that a row has read.

        Args:
            key: as in ``find``.
            tokens: of the text; what is beyond the last full unit is left out.
            pages: the row's, which hold the text.
        """
        node = self._root
        for start, unit in _units(key, tokens):
            if unit not in node.children:
                page, position = pages[start // self.size], start % self.size
                node.children[unit] = new = _Node(node, unit, page, position)
                self._nodes.setdefault(page, []).append(new)
                self.pages.keep(page, position + UNIT)
            node = node.children[unit]

    def clear(self) -> None:
        """Keep nothing that was read; rows keep their pages."""
        for page in self._nodes:
            self.pages.keep(page, 0)
        self._nodes.clear()
        self._root.children.clear()

    def _evict(self, page: int) -> None:
        """Let go of a page, and of what follows its texts, unless another page holds them too."""
        for node in reversed(self._nodes.pop(page)):
            heir = next((child for child in node.children.values() if child.position), None)
            if heir is None:
                self._remove(node)
            else:
                self._move(node, heir.page)
        self.pages.keep(page, 0)

    def _move(self, node: _Node, page: int) -> None:
        """A node's tokens are in another page, which has what follows them as well."""
        node.page = page
        nodes = self._nodes[page]
        nodes.append(node)
        nodes.sort(key=lambda each: each.position)

    def _remove(self, node: _Node) -> None:
        """Take a node out, with all that follows it."""
        assert node.parent is not None
        del node.parent.children[node.unit]
        left = list(node.children.values())
        while left:  # all that is in their pages follows it, too
            after = left.pop()
            left += after.children.values()
            if self._nodes.pop(after.page, None):
                self.pages.keep(after.page, 0)


def _units(key: Hashable, tokens: Sequence[int]) -> Iterator[tuple[int, Unit]]:
    """Where each full unit of a text begins, and the unit."""
    for start in range(0, len(tokens) - len(tokens) % UNIT, UNIT):
        unit = tuple(tokens[start : start + UNIT])
        yield start, unit if start else (key, *unit)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two texts have in common."""
    most = min(len(one), len(other))
    return bisect_left(range(most), 1, key=lambda i: one[: i + 1] != other[: i + 1])
