"""The pages as users have them: in a wheel, in the terminal, and as a site.

One build of the package serves all of it: installed into a folder, as pip does it from a wheel.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import Distribution
from pathlib import Path
from urllib.parse import unquote

import pytest
from doc_pages import ROOT, Page, descant
from test_docs import COMMANDS

import descant as package
from descant import extras
from descant.show import pages

API = Page("docs/api.md").text
LISTED = re.findall(r"^::: ([\w.]+)$", API, re.M)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with descant in it, built from this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    copy = tmp_path_factory.mktemp("code") / "descant"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    kinds = ("pyproject.toml", "README.md", "LICENSE")
    rooms = ("descant/", "grammar/", "formula/", "models/", "runtime/", "docs/")
    for name in tracked:
        if (name in kinds or name.startswith(rooms)) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", str(folder), str(copy)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_are_installed_and_shown(installed) -> None:
    """As with pip alone: from a folder of packages, without a checkout."""
    run = "from descant.cli import main; main()"
    for arguments, shown in (
        ((), r"^installing +Installing: "),
        (("how-do-i#memory",), r"\A## How do I fit into memory\?\n"),
        (("14",), r"\A# 14\. "),
        (("api",), r"Turn a formula into a decoder"),
    ):
        code = f"import sys; sys.path[:0] = {[str(installed), *sys.path]}; {run}"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code, "docs", *arguments],
            capture_output=True, text=True, cwd=installed, timeout=100,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), "and no noise of other libraries"
        assert re.search(shown, done.stdout, re.M), done.stdout[:500]
    found = {file.relative_to(installed / "descant/pages") for file in
             (installed / "descant/pages").rglob("*.md")}  # fmt: skip
    assert found == {file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")}


def test_a_page_or_section_that_there_is_not() -> None:
    for typed, cure in (("modelz", "did you mean models?"), ("how-do-i#memori", "memory?")):
        done = descant("docs", typed)
        assert done.returncode == 2 and cure in done.stderr
    assert "docs" in COMMANDS


def test_every_anchor_that_a_page_has_is_a_section() -> None:
    for name in re.findall(r'<a id="([^"]+)"></a>\n+#', Page("docs/how-do-i.md").text):
        assert pages.text_of(f"how-do-i#{name}").startswith("#")


def test_every_page_is_listed() -> None:
    """Once, in the order of docs/README.md."""
    names = [page.name for page in pages.listed()]
    files = {file.stem for file in (ROOT / "docs").glob("*.md")} - {"README"}
    assert len(names) == len(set(names)) and set(names) == files | {"decisions"}


def test_a_terminal_shows_commands_for_links() -> None:
    text = "See [memory](how-do-i.md#memory).\n\n```text\n[a](b.md)\n```\n"
    shown = pages._for_terminal(text)
    assert "memory (`descant docs how-do-i#memory`)" in shown and "[a](b.md)" in shown


class Links(HTMLParser):
    """The links and the anchors of a page of HTML."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[key] or "" for key in ("id", "name") if key in found}
        self.links += [found[key] or "" for key in ("href", "src") if found.get(key)]


def lost(folder: Path) -> list[str]:
    """The links of a folder's pages that lead nowhere in it; a page of errors has absolute ones."""
    files = [file for file in folder.rglob("*.html") if file.name != "404.html"]
    read = {file.resolve(): Links(file) for file in files}
    wrong = []
    for file, page in read.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path).resolve() if path else file
            known = read[target].anchors if target in read else {anchor}
            if not target.exists() or anchor not in known:
                wrong.append(f"{file.relative_to(folder)}: {link}")
    return wrong


def test_the_site_is_built_without_a_warning_and_its_links_hold(installed, tmp_path) -> None:
    pytest.importorskip("mkdocstrings", reason='pip install -e ".[docs]"')
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for key, value in (("docs_dir", ROOT / "docs"), ("site_dir", tmp_path / "site")):
        settings = re.sub(rf"^{key}: .*$", f"{key}: {value}", settings, flags=re.M)
    settings = settings.replace("[build/documented]", f"[{installed}]")
    settings = settings.replace("[.ci/site.py]", f"[{ROOT}/.ci/site.py]")
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    assert lost(site) == []
    reference = Links(site / "api.html").anchors
    methods = {f"descant.Decoder.{name}" for name in ("generate", "stream", "scores", "inspect")}
    assert {*LISTED, *methods} <= reference
    for file in (ROOT / "docs").rglob("*.md"):
        name = file.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / name.parent / name.name.replace("README", "index")).is_file()
    (site / "broken.html").write_text('<a href="api.html#nothing">a</a><a href="no.html">b</a>')
    assert lost(site) == ["broken.html: api.html#nothing", "broken.html: no.html"]


def test_pages_for_a_browser_lead_to_each_other(tmp_path) -> None:
    """Those links that leave the pages are for a repository, which there is none of."""
    pages.write_html(tmp_path)
    assert [one for one in lost(tmp_path) if ": ../" not in one] == []
    assert "Turn a formula into a decoder" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_the_reference_has_every_public_name() -> None:
    short = [name.removeprefix("descant.") for name in LISTED if name.count(".") == 1]
    assert sorted(short) == sorted(set(package.__all__) - {"__version__"})
    assert len(LISTED) == len(set(LISTED))


def public() -> list[tuple[str, object]]:
    """What the reference lists, and the methods that users call."""
    names = [name for name in package.__all__ if name not in ("__version__", "Scores")]
    listed = [(name, getattr(package, name)) for name in names]
    methods = [f"Decoder.{name}" for name, value in inspect.getmembers(package.Decoder)
               if not name.startswith("_") and inspect.isfunction(value)]  # fmt: skip
    return listed + [(name, getattr(package.Decoder, name.partition(".")[2])) for name in methods]


@pytest.mark.parametrize(("name", "value"), public(), ids=[name for name, _ in public()])
def test_a_docstring_names_the_arguments(name, value) -> None:
    """Each that it lists is one, and where it lists any, it lists all."""
    text = inspect.getdoc(value) or ""
    assert text
    section = re.search(r"^Args:\n((?: .*\n?|\n(?= ))+)", text, re.M)
    if section is None:
        return
    heads = re.findall(r"^    ((?:\*{0,2}\w+)(?:, \w+)*): ", section[1], re.M)
    named = {one.strip("*") for head in heads for one in head.split(", ")}
    parameters = inspect.signature(value).parameters.values()
    more = {one.name for one in parameters if one.kind is one.VAR_KEYWORD}  # named, or not
    assert named - more == {one.name for one in parameters} - more - {"self"}, name


FUNCTIONS = [name for name, value in public() if callable(value) and "." not in name]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.endswith("Error")])
def test_a_docstring_has_an_example(name) -> None:
    """Which tests/pages/test_docs.py runs; a class that a function makes has the function's."""
    if name not in ("Completion", "Decoder", "Limits", "ModelSpec"):
        assert ">>> " in (inspect.getdoc(getattr(package, name)) or ""), name


class Installed(Distribution):
    """A distribution with this ``direct_url.json``, which pip writes unless an index was asked."""

    def __init__(self, source: dict | None) -> None:
        self.source = source

    def read_text(self, filename: str) -> str | None:
        if filename == "direct_url.json":
            return None if self.source is None else json.dumps(self.source)
        return 'Name: descant\nRequires-Dist: peft>=0.17; extra == "train"\n'

    def locate_file(self, path):
        raise NotImplementedError


def test_the_pip_command_is_of_where_it_came_from(tmp_path, monkeypatch) -> None:
    assert extras.pip_install("train") == f'pip install -e "{ROOT}[train]"'
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path / "pyproject.toml")
    wheel = tmp_path / "descant-0.2.0-py3-none-any.whl"
    wheel.touch()
    vcs = {"vcs_info": {"vcs": "git", "commit_id": "c0ffee"}, "url": "https://host/descant"}
    gone = {"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}}
    for source, asked in (
        (None, '"descant[train]"'),
        ({"url": tmp_path.as_uri(), "dir_info": {}}, f'"{tmp_path}[train]"'),
        ({"url": wheel.as_uri(), "archive_info": {}}, f'"descant[train] @ {wheel.as_uri()}"'),
        (vcs, '"descant[train] @ git+https://host/descant@c0ffee"'),
        (gone, '"peft>=0.17"'),
    ):
        monkeypatch.setattr(extras, "distribution", lambda name, at=source: Installed(at))
        assert extras.pip_install.__wrapped__("train") == f"pip install {asked}"
