"""The documents say what the code does: snippets run, tables and plans are the code's own."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path

import pytest

import descant
from descant.formula import STAGES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def stage_table() -> str:
    """The stages of the language, from the classes that are their signatures."""
    lines = ["| stage | does |", "|---|---|"]
    for name, cls in STAGES.items():
        arguments = []
        for key, item in cls.arguments().items():
            kind = item.metadata["kind"]
            default = item.default if kind == "number" and key not in cls.required() else None
            if kind in ("number", "reward"):
                arguments.append(f"{key}={default:g}" if default is not None else key)
        summary = " ".join((cls.__doc__ or "").split())
        lines.append(f"| `{name}({', '.join(arguments)})` | {summary} |")
    return "\n".join(lines)


def test_the_stage_table_is_the_codes_own():
    assert stage_table() in (ROOT / "docs/language.md").read_text(encoding="utf-8")


def test_the_readme_example_and_its_plan():
    code = re.search(r"```python\n(import descant.*?)```", README, re.S)[1]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    printed, written = out.getvalue(), re.search(r"```\n(formula .*?)```", README, re.S)[1]

    def lasting(text):
        return re.sub(r"floor .*? ms at .*? GB/s", "floor", text)

    assert lasting(written.strip()) in lasting(printed)
    assert len(re.findall(r"^(?:0\.0|0\.5|1\.0) ", printed, re.M)) == 3


@pytest.mark.parametrize("file", sorted((ROOT / "docs").rglob("*.md")), ids=lambda file: file.stem)
def test_links_lead_somewhere(file):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / link).exists(), link


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(Path(descant.__file__).parent)], "descant.")
    subs = [m.name for m in found if m.name not in ("descant.__main__", "descant.demo.recipe")]
    rooms = ("grammar", "formula", "models", "runtime")
    for room in rooms:
        package = importlib.import_module(f"descant.{room}")
        subs += [m.name for m in pkgutil.walk_packages(package.__path__, f"descant.{room}.")]
    return sorted({"descant", *subs})


@pytest.mark.parametrize("name", modules())
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
