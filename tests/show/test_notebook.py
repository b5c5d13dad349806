"""What a notebook shows, a table of an inspection, and its figure."""

from __future__ import annotations

import math
import re

import pytest

from descant.errors import ArgumentError
from descant.report import inspection_figure
from descant.report.inspection_figure import write_inspection_figure


@pytest.fixture(scope="module")
def inspection(compiled):
    decoder = compiled("base + a*arm | top_k(20)", params={"a": 0.5})
    return decoder.inspect(
        "the <b>river</b>", max_new_tokens=27, temperature=1.0, seed=3, eos_token_id=[]
    )


def test_a_decoder_says_its_formula_and_is_called_as_generate(compiled):
    decoder = compiled("base + a*arm", params={"a": 0.5})
    assert repr(decoder) == "Decoder('base + a*arm', params={'a': 0.5})"
    [called] = decoder("the river", max_new_tokens=4)
    [generated] = decoder.generate("the river", max_new_tokens=4)
    assert called.token_ids == generated.token_ids


def test_what_a_notebook_shows_is_escaped(compiled, inspection):
    decoder = compiled("base + a*arm", params={"a": 0.5})
    [completion] = decoder("<script>x</script>", max_new_tokens=2)
    shown = completion._repr_html_()
    assert "&lt;script&gt;" in shown and "<script>" not in shown and "a = 0.5" in shown
    assert str(decoder.plan) in decoder.plan._repr_html_().replace("&#x27;", "'")
    assert inspection._repr_html_().count("<tr") == 1 + len(inspection.tokens)


def test_a_table_has_what_the_inspection_has(inspection):
    table = inspection.to_frame()
    assert len(table) == sum(len(choice.candidates) for choice in inspection.tokens)
    kept = table[table.score.notna()]
    added = kept[[part.name for part in inspection.parts]].sum(axis=1)
    assert (added - kept.score).abs().max() < 1e-4
    chosen = table[table.chosen]
    assert [*chosen.id] == inspection.completion.token_ids
    assert [*chosen["logprob(arm)"]] == pytest.approx([*(chosen["arm"] / 0.5)], abs=1e-4)


def test_a_figure_has_a_cell_for_each_token_and_part(inspection):
    figure = inspection_figure(inspection)
    panels = figure.axes
    assert len(panels) == math.ceil(27 / 24)
    cells = [panel.images[0].get_array() for panel in panels]
    assert [each.shape[1] for each in cells] == [24, 3]
    choice = inspection.tokens[0]
    of = {each.id: each for each in choice.candidates}
    other = choice.base if choice.changed else next(i for i in of if i != choice.id)
    pairs = zip(of[choice.id].contributions, of[other].contributions, strict=True)
    for row, (own, others) in enumerate(pairs):
        if own is not None and others is not None:
            assert float(cells[0][row][0]) == pytest.approx(own - others)
    bold = [label.get_fontweight() for panel in panels for label in panel.get_xticklabels()]
    assert bold == ["bold" if each.changed else "normal" for each in inspection.tokens]


@pytest.mark.parametrize(
    ("name", "begins"), [("why.png", b"\x89PNG"), ("why.svg", b"<?xml"), ("why.PDF", b"%PDF")]
)
def test_the_file_is_what_its_name_says(inspection, tmp_path, name, begins):
    file = write_inspection_figure(inspection, tmp_path / name)
    assert file.read_bytes().startswith(begins)


def test_other_endings_are_refused(inspection, tmp_path):
    with pytest.raises(ArgumentError, match=re.escape(".png, .svg, .pdf")):
        write_inspection_figure(inspection, tmp_path / "why.html")
