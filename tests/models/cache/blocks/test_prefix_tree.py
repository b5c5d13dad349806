"""What was read is found by its tokens; what has to go, goes in the order of its last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from ledger import check_tree

from descant.models.cache.blocks.pages import SCRATCH, Pages
from descant.models.cache.blocks.prefix_tree import UNIT, Prefix, PrefixTree

TEXT = [*range(100)]


def other(length: int, text: Sequence[int] = TEXT) -> list[int]:
    """A text that goes on otherwise after so many tokens."""
    return [*text[:length], *[999 + token for token in text[length:]]]


class Reader:
    """Rows that read texts, keep them, and may leave."""

    def __init__(self, size: int = 32, count: int = 20) -> None:
        self.tree = PrefixTree(size, count)
        self.held: Counter[int] = Counter()

    def read(self, text: Sequence[int], key: int = 0, stays: bool = False) -> list[int]:
        """The pages of a text: shared where they are full, and its own."""
        tree, pages = self.tree, self.tree.pages
        found = tree.find(key, text)
        own = [*found.pages[: found.tokens // tree.size]]
        pages.hold(own)
        own += [pages.take() for _ in range(-(-len(text) // tree.size) - len(own))]
        tree.insert(key, text, own)
        self.held.update(own)
        if not stays:
            self.leave(own)
        return own

    def leave(self, own: Sequence[int]) -> None:
        self.tree.pages.release(reversed(own))
        self.held.subtract(own)
        check_tree(self.tree, self.held)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 100])
def test_a_beginning_is_a_multiple_of_16_tokens(length) -> None:
    reader = Reader()
    pages = reader.read(TEXT[:length])
    found = reader.tree.find(0, TEXT)
    assert found == Prefix(length - length % UNIT, pages[: -(-(length - length % UNIT) // 32)])
    assert reader.tree.find(0, other(length // 2)).tokens == length // 2 // UNIT * UNIT


def test_nothing_is_found_in_an_empty_tree() -> None:
    tree = PrefixTree(32, 4)
    assert tree.find(0, TEXT) == Prefix(0, [])
    tree.insert(0, TEXT[:15], [1])
    assert tree.find(0, TEXT) == Prefix(0, []) and not tree._nodes


def test_adapters_are_apart() -> None:
    reader = Reader()
    bare, adapted = reader.read(TEXT[:96], 0), reader.read(TEXT[:96], 1)
    assert not {*bare} & {*adapted}
    assert reader.tree.find(0, TEXT).pages == bare and reader.tree.find(1, TEXT).pages == adapted
    assert reader.tree.find(2, TEXT).tokens == 0


def test_a_first_token_is_no_adapter() -> None:
    reader = Reader()
    reader.read([7, *TEXT[:31]], 0)
    assert reader.tree.find(7, [0, *TEXT[:31]]).tokens == 0
    assert reader.tree.find(0, [7, *TEXT[:31]]).tokens == 32


def test_texts_that_part_inside_a_page_have_a_page_each() -> None:
    reader = Reader()
    one, another = reader.read(TEXT[:64]), reader.read(other(48)[:64])
    assert one[0] == another[0] and one[1] != another[1]
    tree = reader.tree
    assert tree.find(0, TEXT[:64]) == Prefix(64, one)
    assert tree.find(0, other(48)[:64]) == Prefix(64, another)
    assert tree.find(0, TEXT[:48]) == Prefix(48, one)
    assert tree.pages._kept[one[1]] == tree.pages._kept[another[1]] == 32


def test_a_page_that_goes_leaves_what_another_has_too() -> None:
    reader = Reader()
    one = reader.read(TEXT[:64])
    another = reader.read(other(48)[:64])
    tree = reader.tree
    tree._evict(one[1])
    tree.pages._idle.pop(one[1], None)
    assert tree.find(0, TEXT[:64]) == Prefix(48, [one[0], another[1]]), "the heir has it"
    tree._evict(another[1])
    assert tree.find(0, TEXT[:64]) == Prefix(32, [one[0]])
    check_tree(tree, reader.held)


def test_what_follows_a_page_goes_with_it() -> None:
    reader = Reader()
    first = reader.read(TEXT)
    reader.tree._evict(first[1])
    assert reader.tree.find(0, TEXT) == Prefix(32, first[:1])
    assert reader.tree.pages.idle == 1
    check_tree(reader.tree, reader.held)


def test_rows_keep_pages_that_the_tree_lets_go_of() -> None:
    reader = Reader(count=6)
    own = reader.read(TEXT, stays=True)
    reader.tree.clear()
    assert reader.tree.pages.available == 1 and reader.tree.find(0, TEXT).tokens == 0
    reader.leave(own)
    assert reader.tree.pages.available == 5


def test_the_least_recently_used_goes_first_and_the_end_of_a_text_before_its_beginning() -> None:
    reader = Reader(count=7)
    old, new = reader.read(TEXT[:64]), reader.read(other(0)[:64])
    reader.read(TEXT[:64])  # it is used again
    tree = reader.tree
    order = [*tree.pages._idle]
    assert order == [new[1], new[0], old[1], old[0]]
    taken = [tree.pages.take() for _ in range(4)]
    assert taken[2:] == order[:2] and tree.find(0, TEXT) == Prefix(64, old)
    assert tree.find(0, other(0)).tokens == 0


def test_a_tree_forgets_keys_that_have_nothing() -> None:
    reader = Reader(count=3)
    for key in range(50):
        reader.read(TEXT[:64], key)
    assert len(reader.tree._root.children) == 1 and reader.tree.find(49, TEXT).tokens == 64


class TestPages:
    def pages(self) -> tuple[Pages, list[int]]:
        evicted: list[int] = []

        def evict(page: int) -> None:
            evicted.append(page)
            pages.keep(page, 0)

        pages = Pages(5, evict)
        return pages, evicted

    def test_scratch_is_never_taken(self) -> None:
        pages, _ = self.pages()
        taken = {pages.take() for _ in range(pages.available)}
        assert taken == {1, 2, 3, 4} and SCRATCH not in taken and not pages.available

    def test_a_page_goes_when_nobody_has_it(self) -> None:
        pages, _ = self.pages()
        page = pages.take()
        pages.hold([page])
        pages.release([page])
        assert pages.in_use(page) and pages.available == 3
        pages.release([page])
        assert not pages.in_use(page) and pages.available == 4 and not pages.idle

    def test_what_the_tree_keeps_is_idle(self) -> None:
        pages, evicted = self.pages()
        page = pages.take()
        pages.keep(page, 16)
        pages.release([page])
        assert pages.idle == 1 and pages.available == 4
        pages.hold([page])
        assert not pages.idle and pages.available == 3
        pages.release([page])
        assert [pages.take() for _ in range(4)][-1] == page and evicted == [page]

    def test_one_row_may_write_behind_what_is_kept(self) -> None:
        pages, _ = self.pages()
        page = pages.take()
        assert pages.may_write(page, 0)
        pages.keep(page, 16)
        assert pages.may_write(page, 16) and not pages.may_write(page, 15)
        pages.hold([page])
        assert not pages.may_write(page, 16)
