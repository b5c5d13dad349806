"""The quickstart notebook runs from top to bottom, and prints what it has stored.

Run this file with DESCANT_GOLDEN=write to store what it prints, and read the difference.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "quickstart.ipynb"
LARGEST = 100_000  # bytes that are read on the web without waiting


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(FILE, as_version=4)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Any:
    """The notebook as it comes out of a kernel of its own."""
    folder = tmp_path_factory.mktemp("quickstart")
    program = folder / "descant"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m descant "$@"\n')
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment["PYTHONPATH"] = str(ROOT)
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, without ipywidgets
    made = nbformat.read(FILE, as_version=4)
    client = NotebookClient(
        made, timeout=200, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute(env=environment)
    if os.environ.get("DESCANT_GOLDEN") == "write":
        made.metadata = nbformat.read(FILE, as_version=4).metadata
        nbformat.write(made, FILE)
    return made


def said(notebook: Any) -> list[str]:
    """What each cell of code prints; what is measured is left out."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = [
        "".join(out.get("text", "") for out in cell.outputs if out.get("name") != "stderr")
        for cell in cells
    ]
    return [re.sub(r"floor +.*? ms at .*? GB/s", "floor", text) for text in texts]


def pictures(notebook: Any) -> list[str]:
    outs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    return [kind for out in outs for kind in out.get("data", {}) if kind.startswith("image/")]


@pytest.mark.slow
def test_what_it_prints_is_what_is_stored(fresh, stored):
    if torch.cuda.is_available():
        pytest.skip("on a GPU a near tie may fall the other way")
    assert said(fresh) == said(stored)
    assert pictures(fresh) == pictures(stored) == ["image/png"]


@pytest.mark.slow
def test_nothing_is_complained_of(fresh):
    outs = [out for cell in fresh.cells for out in cell.get("outputs", ())]
    assert not [out for out in outs if out.output_type == "error"]
    told = "".join(out["text"] for out in outs if out.get("name") == "stderr")
    # torchao, where it is installed, says which of its kernels cannot be loaded
    assert not [line for line in told.splitlines() if line and "site-packages" not in line]


def test_it_is_stored_whole_and_small(stored):
    nbformat.validate(stored)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert FILE.stat().st_size < LARGEST
    assert not re.search(r"/(home|root|tmp|work)/", FILE.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere(stored):
    text = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) >= 5
    for link in links:
        assert (FILE.parent / link).exists(), link
