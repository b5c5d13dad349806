"""The layout is the architecture: imports go one way, files stay small, and text is never run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("grammar", "formula", "models", "runtime", "descant")
MAY_IMPORT = {
    "grammar": {"grammar"},
    "formula": {"grammar", "formula"},
    "models": {"grammar", "models"},
    "runtime": {"grammar", "formula", "models", "runtime"},
    "descant": set(PACKAGES),
}
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def imports(source: str, package: str, depth: int = 1) -> set[str]:
    """Which packages a file imports, in full names where they are not ours.

    ``depth`` is how many folders the file is below the root; two dots there lead to ``descant``.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0:
                found |= {f"{module}.{alias.name}" for alias in node.names}
                continue
            above = ["descant", *(() if package == "descant" else (package,))]
            above += ["…"] * (depth - 1)
            start = above[: len(above) - node.level + 1]
            found |= {".".join([*start, *filter(None, [module]), a.name]) for a in node.names}
    return {_ours(name) for name in found}


def _ours(name: str) -> str:
    first, _, rest = name.partition(".")
    if first != "descant":
        return name
    below = rest.partition(".")[0]
    return below if below in PACKAGES else "descant"


def of(file: Path) -> set[str]:
    package, *between = file.relative_to(ROOT).parts[:-1]
    return imports(file.read_text(encoding="utf-8"), package, 1 + len(between))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package) -> None:
    for file in (ROOT / package).rglob("*.py"):
        wrong = (of(file) & set(PACKAGES)) - MAY_IMPORT[package]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from ..runtime import bind", "formula", "runtime"),
        ("from ..runtime.bind import Bound", "grammar", "runtime"),
        ("from .. import runtime", "models", "runtime"),
        ("import descant.runtime.binding.bind", "models", "runtime"),
        ("from descant.formula import Plan", "models", "formula"),
        ("from descant import runtime", "grammar", "runtime"),
        ("from .. import compile", "formula", "descant"),
        ("def f():\n    from ..formula import Plan", "models", "formula"),
        ("from .tree import Span", "grammar", "grammar"),
        ("from .runtime import Decoder", "descant", "runtime"),
    ],
)
def test_the_reading_of_imports_sees_each_kind(source, package, expected) -> None:
    assert expected in imports(source, package)


def third_party(package: str) -> set[str]:
    names = {name.partition(".")[0] for file in (ROOT / package).rglob("*.py") for name in of(file)}
    return names - set(PACKAGES) - set(sys.stdlib_module_names)


def test_each_package_has_its_own_libraries() -> None:
    assert third_party("grammar") == {"lark"}
    assert third_party("formula") == {"sympy"}
    assert third_party("models") <= {
        "torch",
        "transformers",
        "pydantic",
        "safetensors",
        "accelerate",
    }
    assert third_party("runtime") <= {"torch", "transformers", "tqdm", "accelerate"}


def test_sympy_is_in_one_file() -> None:
    users = [file.relative_to(ROOT) for file in FILES if any("sympy" in one for one in of(file))]
    assert users == [Path("formula/algebra/collect.py")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_small_and_says_why_it_exists(file) -> None:
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 400
    assert file.stem not in ("utils", "base", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(source)) or file.stem == "__main__"


def calls(source: str) -> set[str]:
    """Names of everything that is called, dotted as written."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found - _own(source)


def _own(source: str) -> set[str]:
    """Names that a file defines, or imports from descant: our ``compile`` is not Python's."""
    tree = ast.walk(ast.parse(source))
    found: set[str] = set()
    for node in tree:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == "descant"):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_text_is_run(file) -> None:
    source = file.read_text(encoding="utf-8")
    assert not calls(source) & {"eval", "exec", "compile", "builtins.eval", "__import__"}
    assert not {"pickle", "dill", "joblib", "marshal"} & {one.partition(".")[0] for one in of(file)}
    for call in calls(source):
        assert not call.endswith((".parse_expr", ".lambdify")), call
        if call.endswith("load") and call.startswith("torch"):
            pytest.fail(f"{call} reads pickles")
    if "sympify" in source:
        assert file.name == "collect.py" and source.count("sympify(value)") == source.count(
            "sympify("
        )


def test_calls_are_seen() -> None:
    assert calls("x = eval(y)\nsympy.parse_expr('1')") == {"eval", "sympy.parse_expr"}
    assert calls("from .api import compile\ncompile(x)\neval(compile)") == {"eval"}
    assert calls("from builtins import compile\ncompile(x)") == {"compile"}


def fresh(code: str) -> list[str]:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    return done.stdout.split()


HEAVY = ("torch", "transformers", "sympy", "numpy", "pydantic", "lark", "peft", "tqdm", "typer")


def test_importing_and_parsing_need_next_to_nothing(record_property) -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import descant; "
        "took = time.perf_counter() - start; "
        f"print(took, [m for m in {HEAVY} if m in sys.modules]); "
        "descant.parse('base + 0.5*arm | rerank(rm)'); "
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    took, before, after = fresh(code)
    record_property("seconds to import descant", took)
    assert (before, after) == ("[]", "['lark']")
    assert float(took) < 1.0


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from descant.formula import Names, make_plan; "
        "make_plan('base + a*arm', Names(frozenset(('base', 'arm')), frozenset('a'))); "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert fresh(code) == ["[]"]


def test_a_run_file_is_read_and_a_server_made_without_torch() -> None:
    code = (
        "import sys; from descant.inputs.runfile import read_run_file; "
        "from descant.serve.http.app import application; "
        "from descant.serve.frontend.server import Server; "
        "application(Server(read_run_file('../examples/serve.yaml'))); "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    pytest.importorskip("fastapi", reason="pip install descant[serve]")
    assert fresh(code) == ["[]"]


def test_every_public_name_is_there() -> None:
    import descant
    from descant import models

    assert all(getattr(models, name) is not None for name in models.__all__)
    assert all(getattr(descant, name) is not None for name in descant.__all__)
    assert set(dir(descant)) >= set(descant.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        descant.compil  # noqa: B018
