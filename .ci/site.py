"""mkdocs' hooks: the pages of docs/ are the site's as they are, and as a repository shows them.

The navigation is the list of docs/README.md. A page links to files of the repository by relative
paths: those that lie outside docs/ are put into the site, under ``source/``, a folder as the list
of its files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!\\)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]+)?\)")
FENCED = re.compile(r"(^```.*?^```$)", re.S | re.M)
LISTED = re.compile(r"^\d+\. \[(.+?)\]\((.+?)\)|^(\S.*):$", re.M)
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def on_config(config):
    """The navigation, from the list of docs/README.md: its parts, and their pages in order."""
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    config.nav, part = [{"Documentation": "README.md"}], None
    for title, path, heading in LISTED.findall(index):
        if heading:
            part = []
            config.nav.append({heading: part})
        elif (ROOT / "docs" / path).is_dir():
            part.append({title: [f"{path}/README.md", *decisions()]})
        elif path.endswith(".md"):
            part.append({title: path})
    config.nav.append({"The repository": [_uri(ROOT / name) for name in PAGES]})
    return config


def decisions() -> list[str]:
    return [f"decisions/{file.name}" for file in sorted((ROOT / "docs/decisions").glob("0*.md"))]


def on_files(files: Files, config) -> Files:
    """Add the files outside docs/ that pages link to, and those that these link to."""
    waiting = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in PAGES)]
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done or not path.exists():  # mkdocs says so
            continue
        done.add(path)
        outside = not path.is_relative_to(ROOT / "docs")
        if path.is_dir() and (path / "README.md").is_file():
            waiting.append(path / "README.md")
        elif path.is_dir():
            files.append(File.generated(config, _uri(path), content=_listing(path)))
        elif outside and path.suffix == ".md":
            files.append(File.generated(config, _uri(path), content=path.read_text("utf-8")))
        elif outside:
            files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
        if path.suffix == ".md":
            waiting += [target for target, _ in _targets(path)]
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Links as the site has them: by the place of both files in it."""
    here = page.file.src_uri
    path = _path(here)

    def moved(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(path.parent / match[1]))
        link = os.path.relpath(_uri(target), os.path.dirname(here) or ".")
        return f"]({link}{match[2] or ''})"

    parts = FENCED.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def _targets(file: Path) -> list[tuple[Path, str]]:
    text = FENCED.sub("", file.read_text(encoding="utf-8"))
    return [
        (Path(os.path.normpath(file.parent / path)), anchor) for path, anchor in LINK.findall(text)
    ]


def _uri(path: Path) -> str:
    """Where the site has a file or a folder of the repository."""
    if path.is_dir():
        path = path / "README.md"
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return f"source/{path.relative_to(ROOT).as_posix()}"


def _path(uri: str) -> Path:
    return ROOT / uri.removeprefix("source/") if uri.startswith("source/") else ROOT / "docs" / uri


def _listing(folder: Path) -> str:
    """A folder that has no README as a page: the list of its files."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    if folder.name == "decisions":
        entries = [f"- [{_title(folder / name)}]({name})" for name in names]
        return "\n".join(["# Decisions", "", *entries, ""])
    return "\n".join([f"# {folder.relative_to(ROOT)}", "", *(f"- `{name}`" for name in names), ""])


def _title(file: Path) -> str:
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
