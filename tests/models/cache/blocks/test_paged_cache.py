"""The pages of a cache: what is written where, and what a row is shown of them."""

from __future__ import annotations

import pytest
import torch

from descant.models.cache.blocks.paged import PagedBlocks
from descant.models.cache.blocks.paged_cache import PagedCache, side_by_side
from descant.models.cache.rows import Rows
from descant.models.cache.survey import LayerShape
from descant.models.cache.window import Window
from descant.models.combinations import BARE
from descant.models.errors import OutOfPages

SHAPES = [LayerShape(2, 3, 3), LayerShape(1, 4, 2), LayerShape(3, 1, 5)]  # none like another
PAGES, SIZE = 7, 16
CPU = torch.device("cpu")


def cache(pages: int = PAGES) -> PagedCache:
    made = PagedCache(SHAPES, pages, SIZE, torch.empty(0))
    made._pool.fill_(torch.nan)
    return made


def tables(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def window(positions: torch.Tensor, table: torch.Tensor, limit: int, **more: bool) -> Window:
    places = table.gather(1, positions // SIZE).long(), positions % SIZE
    return Window(positions, limit, tables=table, places=places, **more)


def written(into: PagedCache, table: torch.Tensor, positions: torch.Tensor, limit: int) -> list:
    """Random keys and values at positions of rows, and what each layer shows."""
    into.see(window(positions, table, limit))
    shown = []
    for layer, shape in enumerate(SHAPES):
        size = (len(positions), shape.groups, positions.shape[1])
        keys, values = torch.rand(*size, shape.key_size), torch.rand(*size, shape.value_size)
        shown.append((keys, values, *into.update(keys, values, layer)))
    return shown


def test_a_row_is_shown_what_it_has_and_zeros_where_nothing_is_seen() -> None:
    """What is dead is NaN: beyond a text in its page, and in pages of nobody."""
    positions = torch.stack((torch.arange(20), torch.arange(20).clamp(max=8)))
    table = tables([3, 1], [5, 0])
    for keys, values, all_keys, all_values in written(cache(), table, positions, 32):
        for new, shown in ((keys, all_keys), (values, all_values)):
            assert shown.shape == (2, new.shape[1], 32, new.shape[3])
            assert torch.equal(shown[0, :, :20], new[0]) and not shown[0, :, 20:].any()
            assert torch.equal(shown[1, :, :8], new[1, :, :8]) and not shown[1, :, 9:].any()


def test_what_nobody_sees_is_zero_though_it_was_written() -> None:
    into = cache()
    written(into, tables([2, 4]), torch.arange(32)[None], 32)
    now = window(torch.tensor([[9]]), tables([2, 4]), 20)
    shown = side_by_side(into.layers[0].keys.transpose(1, 2), now)
    assert shown.shape == (1, 2, 20, 3)
    assert shown[:, :, :10].all() and not shown[:, :, 10:].any()


def test_attention_that_reads_tables_gets_the_pages_themselves() -> None:
    into = cache()
    into.see(window(torch.arange(4)[None], tables([2]), 16, live=True))
    keys, values = into.update(torch.ones(1, 2, 4, 3), torch.ones(1, 2, 4, 3), 0)
    for shown, layer in ((keys, into.layers[0].keys), (values, into.layers[0].values)):
        assert shown.shape == (PAGES, 2, SIZE, 3) and shown.data_ptr() == layer.data_ptr()
        assert shown[2, :, :4].eq(1).all() and shown[[0, 1, 3, 4, 5, 6]].isnan().all()


def test_layers_have_the_pool_among_them() -> None:
    into = cache()
    assert into.page_bytes == 4 * SIZE * sum(shape.numbers for shape in SHAPES)
    assert into.nbytes == PAGES * into.page_bytes
    for layer in into.layers:
        layer.keys.zero_(), layer.values.zero_()
    assert not into._pool.any(), "each number belongs to a layer"
    for number, layer in enumerate(into.layers):
        layer.keys += 2 * number + 1
        layer.values += 2 * number + 2
    sizes = [shape.groups * size for shape in SHAPES for size in shape[1:]]
    counts = torch.bincount(into._pool.long().view(-1), minlength=7).tolist()
    assert counts == [0, *(PAGES * SIZE * size for size in sizes)]


def test_a_page_is_copied_in_all_layers() -> None:
    into = cache()
    written(into, tables([4]), torch.arange(16)[None], 16)
    before = into._pool.clone()
    into.copy_pages([(4, 2)])
    assert torch.equal(into._pool[2], before[4])
    others = [0, 1, 3, 4, 5, 6]
    assert torch.equal(into._pool[others].nan_to_num(), before[others].nan_to_num())


def test_tokens_move_within_their_rows() -> None:
    rows = Rows(3, 48, CPU, pages=3)
    blocks = PagedBlocks(rows, cache(), shares=False)
    texts = [[1] * 20, [2] * 33]
    made = [blocks.make(text, BARE) for text in texts]
    rows.admit(texts, [20, 33], [BARE] * 2)
    blocks.join(made)
    rows.flush()
    pool = blocks.cache
    table = rows.tables[:2]
    positions = torch.stack((torch.arange(33).clamp(max=19), torch.arange(33)))
    shown = written(pool, table, positions, 33)
    blocks.move_tokens(torch.tensor([[18], [31]]), torch.tensor([[3], [32]]))
    pool.see(window(torch.tensor([[19], [32]]), table, 33))
    for layer, (_, _, keys, values) in zip(pool.layers, shown, strict=True):
        for tensor, old in ((layer.keys, keys), (layer.values, values)):
            new = side_by_side(tensor.transpose(1, 2), pool.window)
            assert torch.equal(new[0, :, 3], old[0, :, 18])
            assert torch.equal(new[1, :, 32], old[1, :, 31])
            changed = (new != old).any(dim=-1).any(dim=1)
            assert changed.nonzero().tolist() == [[0, 3], [1, 32]]


class TestOutOfPages:
    def blocks(self, pages: int = PAGES) -> PagedBlocks:
        return PagedBlocks(Rows(4, 96, CPU, pages=6), cache(pages))

    def read(self, blocks: PagedBlocks, text: list[int]) -> None:
        block = blocks.make(text, BARE)
        blocks.rows.admit([text], [len(text)], [BARE])
        blocks.share(block, text)
        blocks.keep(block, text)
        blocks.join([block])

    def test_make_says_how_many_are_lacking(self) -> None:
        blocks = self.blocks()
        self.read(blocks, [1] * 40)
        with pytest.raises(OutOfPages, match="of 70 tokens takes 2 pages more than are free, of 6"):
            blocks.make([2] * 70, BARE)
        assert blocks.free_pages == 3
        blocks.discard()
        assert blocks.free_pages == 3 and not blocks._made

    def test_what_make_had_found_is_given_back(self) -> None:
        blocks = self.blocks()
        self.read(blocks, [1] * 40)
        with pytest.raises(OutOfPages):
            blocks.make([1] * 32 + [2] * 64, BARE)
        assert blocks._made[0].pages == blocks.held[0].pages[:2]
        blocks.discard()
        blocks.drop(0)
        assert blocks.free_pages == 6

    def test_what_was_shared_and_is_forgotten_may_leave_no_page(self) -> None:
        """A row still has the pages that were found, and there are no others."""
        blocks = self.blocks(pages=5)
        text = [*range(3, 40)]
        self.read(blocks, text)
        block = blocks.make([*text[:32], 1], BARE)
        assert block.pages[:2] == blocks.held[0].pages[:2] and blocks.free_pages == 0
        blocks.forget()
        with pytest.raises(OutOfPages, match="has lost the pages that it shared"):
            blocks.share(block, [*text[:32], 1])
        blocks.discard()
        blocks.drop(0)
        assert blocks.free_pages == 4 and blocks._pages._rows == [0] * 5

    def test_or_they_are_copied(self) -> None:
        blocks = self.blocks()
        text = [*range(3, 40)]
        self.read(blocks, text)
        block = blocks.make([*text[:32], 1], BARE)
        blocks.forget()
        assert blocks.share(block, [*text[:32], 1]) == 0
        assert not {*block.pages} & {*blocks.held[0].pages} and blocks.free_pages == 0

    def test_make_takes_every_page_that_is_written_to(self) -> None:
        """All of the text is known, and its last token is read again: in a page of its own."""
        blocks, text = self.blocks(pages=4), [*range(3, 35)]
        self.read(blocks, text)
        block = blocks.make(text, BARE)
        assert block.pages[0] == blocks.held[0].pages[0] and blocks.free_pages == 0
        assert blocks.share(block, text[:-1]) == 16 and blocks.free_pages == 0

    def test_the_end_of_a_text_that_left_goes_first(self) -> None:
        blocks, text = self.blocks(pages=5), [*range(3, 51)]
        self.read(blocks, text)
        pages = blocks.held[0].pages
        blocks.drop(0)
        blocks.rows.release(0)
        blocks.make([1] * 32, BARE)
        assert blocks._tree.find(BARE.key, text) == (32, pages[:2])

    def test_a_row_goes_back_once(self) -> None:
        blocks, text = self.blocks(), [*range(3, 43)]
        self.read(blocks, text)
        blocks.rows.rewrite({0: (20, [])})
        assert blocks.extend(1) == 0 and blocks.held[0].length == 20
        pages = [*blocks.held[0].pages]
        assert blocks.extend(30) == 0 and blocks.extend(1) == 0
        assert blocks.held[0].pages[:2] == pages and len(blocks.held[0].pages) == 4

    def test_extend_counts_what_all_rows_lack(self) -> None:
        blocks = self.blocks()
        self.read(blocks, [1] * 16)
        self.read(blocks, [2] * 16)
        assert blocks.extend(33) == 2, "3 each, and 4 are free"
        assert [len(block.pages) for block in blocks.held] == [4, 1]
        blocks.drop(0)
        blocks.rows.release(0)
        assert blocks.extend(33) == 0 and blocks.free_pages == 2
