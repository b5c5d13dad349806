"""The quickstart notebook runs from top to bottom, and prints what it has stored.

Run this file with DESCANT_GOLDEN=write to store what it prints, and read the difference.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nbformat
import pytest
import torch
from doc_pages import ROOT, WRITE, Page, descant, lasting
from nbformat.v4 import new_output
from traitlets.config import Config

FILE = ROOT / "examples" / "quickstart.ipynb"
LARGEST = 100_000  # bytes that are read on the web without waiting
MEMORY = Config(HistoryManager={"hist_file": ":memory:"})  # what a cell ends with is read there
INLINE = "module://matplotlib_inline.backend_inline"


def bash(line: str, cell: str) -> None:
    """Run the ``descant`` commands of a ``%%bash`` cell in this process."""
    for command in cell.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "descant"
        done = descant(*arguments)
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)


@contextmanager
def ipython() -> Iterator[Any]:
    """IPython's shell in this process, with a notebook's figures."""
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib_inline.backend_inline import configure_inline_support

    before, shell = plt.get_backend(), InteractiveShell.instance(config=MEMORY)
    plt.switch_backend(INLINE)
    configure_inline_support(shell, INLINE)
    shell.register_magic_function(bash, "cell")
    yield shell
    plt.switch_backend(before)
    InteractiveShell.clear_instance()


def outputs(shell: Any, source: str) -> list[Any]:
    """What a cell gives, as a notebook stores it."""
    from IPython.utils.capture import capture_output

    with capture_output() as captured:
        shell.run_cell(source, store_history=True).raise_error()
    texts = (("stdout", captured.stdout), ("stderr", captured.stderr))
    made = [new_output("stream", name=name, text=text) for name, text in texts if text]
    made += [
        new_output("display_data", data=rich.data, metadata=rich.metadata or {})
        for rich in captured.outputs
    ]
    return made


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(FILE, as_version=4)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Any:
    """The notebook after its cells have run, one after another, in this process."""
    notebook = nbformat.read(FILE, as_version=4)
    with pytest.MonkeyPatch.context() as patch, ipython() as shell:
        patch.chdir(tmp_path_factory.mktemp("quickstart"))
        for number, cell in enumerate(code(notebook), 1):
            cell.outputs, cell.execution_count = outputs(shell, cell.source), number
    if WRITE:
        nbformat.write(notebook, FILE)
    return notebook


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any, stream: str = "stdout") -> list[str]:
    """What each cell of code prints; what is measured is left out."""
    return [
        lasting("".join(out.text for out in cell.outputs if out.get("name") == stream))
        for cell in code(notebook)
    ]


def pictures(notebook: Any) -> list[str]:
    outs = [out for cell in code(notebook) for out in cell.outputs]
    return [kind for out in outs for kind in out.get("data", {}) if kind.startswith("image/")]


def test_what_it_prints_is_what_is_stored(fresh, stored):
    if torch.cuda.is_available():
        pytest.skip("on a GPU a near tie may fall the other way")
    assert texts(fresh) == texts(stored)
    assert pictures(fresh) == pictures(stored) == ["image/png"]


def test_nothing_is_complained_of(fresh):
    lines = "".join(texts(fresh, "stderr")).splitlines()
    # where torchao is installed, it and torch warn of its kernels
    known = ("site-packages", "torch/utils/_pytree.py")
    assert not [line for line in lines if line and not any(name in line for name in known)]


def test_it_is_stored_whole_and_small(stored):
    nbformat.validate(stored)
    counts = [cell.execution_count for cell in code(stored)]
    assert counts == list(range(1, len(counts) + 1))
    assert FILE.stat().st_size < LARGEST
    assert not re.search(r"/(home|root|tmp|work)/", FILE.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere(stored):
    text = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    assert len(re.findall(r"\]\(([^)#]+)\)", text)) >= 5
    assert Page(FILE).lost_links() == []
