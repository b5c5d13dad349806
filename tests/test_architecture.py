"""The layout is the architecture: imports go one way, rooms are small, and text is never run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from import_graph import circles, depth, import_graph, imported, rooms

ROOT = Path(__file__).parents[1]
PACKAGES = ("grammar", "formula", "models", "runtime", "descant")
MAY_IMPORT = {
    "grammar": {"grammar"},
    "formula": {"grammar", "formula"},
    "models": {"grammar", "models"},
    "runtime": {"grammar", "formula", "models", "runtime"},
    "descant": set(PACKAGES),
}
LEAVES = {
    "descant.errors": set(),
    "descant.disk": {"descant.errors"},
    "descant.extras": {"descant.errors"},
}  # everything may import them
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
GRAPH = import_graph(ROOT, PACKAGES)
MODULES, AT_THE_TOP, DEPTH = 12, 24, 10  # per folder, in descant/ itself, inside runtime


def package_of(module: str) -> str:
    """``runtime`` for ``descant.runtime.engine.step``, ``descant`` for the front door."""
    below = module.split(".")[1:2]
    return below[0] if below and below[0] in PACKAGES else "descant"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package) -> None:
    for module, targets in GRAPH.items():
        if package_of(module) == package:
            others = targets - set(LEAVES)
            wrong = {t for t in others if package_of(t) not in MAY_IMPORT[package]}
            assert not wrong, f"{module} imports {wrong}"
    assert {leaf: GRAPH[leaf] for leaf in LEAVES} == LEAVES


def test_no_module_imports_itself_through_others() -> None:
    assert circles(GRAPH) == []


@pytest.mark.parametrize("folder", sorted({module.rpartition(".")[0] for module in GRAPH} - {""}))
def test_rooms_of_a_folder_import_one_way(folder) -> None:
    assert circles(rooms(GRAPH, folder)) == []


def test_runtime_is_not_deep() -> None:
    chain = depth(GRAPH, "descant.runtime")
    assert len(chain) <= DEPTH, " → ".join(chain)


def test_folders_hold_few_modules() -> None:
    counts = Counter(file.parent for file in FILES if file.name != "__init__.py")
    for folder, count in counts.items():
        assert count <= (AT_THE_TOP if folder == ROOT / "descant" else MODULES), folder


def test_a_circle_a_climb_and_a_depth_are_found() -> None:
    """The tests above fail when what they watch over is broken."""
    graph = {"p.a.x": {"p.b.y"}, "p.b.y": {"p.a.z"}, "p.a.z": set(), "p.c": {"p.a.x"}}
    assert circles(graph) == []
    assert circles(rooms(graph, "p")) == [{"p.a", "p.b"}]
    assert depth(graph, "p") == ["p.c", "p.a.x", "p.b.y", "p.a.z"]
    assert circles({**graph, "p.a.z": {"p.a.x"}}) == [{"p.a.x", "p.b.y", "p.a.z"}]


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from ..runtime import Bound", "descant.formula.plan", "descant.runtime"),
        ("from ..runtime.bind import Bound", "descant.grammar.parse", "descant.runtime.bind"),
        ("from ...runtime import Bound", "descant.models.lanes.adapters", "descant.runtime"),
        ("import descant.runtime.bind", "descant.models.load", "descant.runtime.bind"),
        ("from descant.formula import Plan", "descant.models.load", "descant.formula"),
        ("from descant import runtime", "descant.grammar.tree", "descant.runtime"),
        ("from .. import compile", "descant.formula.plan", "descant"),
        ("def f():\n    from ..formula import Plan", "descant.models.load", "descant.formula"),
        ("if TYPE_CHECKING:\n    from . import tree", "descant.grammar.a", "descant.grammar.tree"),
    ],
)  # fmt: skip
def test_every_kind_of_import_is_read(source, module, expected) -> None:
    known = ("descant", "descant.runtime", "descant.runtime.bind", "descant.formula")
    assert imported(source, module, False, {*known, "descant.grammar.tree"}) == {expected}


RETIRED = frozenset(
    """
    seat seats reader readers house houses party parties judged tail tails flight flights boarding
    follower followers intake beside given elsewhere draws whole drafts
    """.split()  # noqa: SIM905
)


def words(name: str) -> set[str]:
    """``in_flight`` and ``PartyRows`` in words, in small letters."""
    return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_"))


def defined(source: str) -> set[str]:
    """The names that a file defines: classes, functions, arguments, variables and attributes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            names.add(node.asname)
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_retired_words_name_nothing(file) -> None:
    named = {*defined(file.read_text(encoding="utf-8")), file.stem, file.parent.name}
    assert {name for name in named if words(name) & RETIRED} == set()


def test_a_retired_word_is_found() -> None:
    source = "class PartyRows:\n    def go(self, in_flight):\n        self.house = seat = in_flight"
    assert {name for name in defined(source) if words(name) & RETIRED} == {
        "PartyRows", "in_flight", "house", "seat",
    }  # fmt: skip


def of(file: Path) -> set[str]:
    """Everything that a file imports from outside, and descant for what is ours."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("descant" if node.level else f"{node.module}")
    return names


def third_party(package: str) -> set[str]:
    names = {name.partition(".")[0] for file in (ROOT / package).rglob("*.py") for name in of(file)}
    return names - {"descant"} - set(sys.stdlib_module_names)


def test_each_package_has_its_own_libraries() -> None:
    assert third_party("grammar") == {"lark"}
    assert third_party("formula") == {"sympy"}
    assert third_party("models") <= {
        "torch",
        "transformers",
        "pydantic",
        "safetensors",
        "accelerate",
        "filelock",
        "gguf",
        "PIL",
        "huggingface_hub",
        "jinja2",
        "peft",
        "regex",
        "tokenizers",
        "triton",
    }
    assert third_party("runtime") <= {
        "torch", "transformers", "tqdm", "accelerate", "llguidance", "numpy", "pandas",
        "scipy",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("library", "files"),
    [
        ("sympy", ["formula/algebra/collect.py"]),
        (
            "llguidance",
            [
                "descant/serve/worker/constraint_trial.py",
                "runtime/constraints/compiled.py",
                "runtime/constraints/tokens.py",
            ],
        ),
    ],
)
def test_a_library_is_in_few_files(library, files) -> None:
    assert users(library) == [Path(file) for file in files]


def test_triton_is_in_files_of_kernels() -> None:
    """Whose names end so; they are imported when one is launched."""
    found = users("triton")
    assert Path("models/kernels/draw_kernel.py") in found
    for file in found:
        assert file.is_relative_to("models") and file.stem.endswith("_kernel"), file


def users(library: str) -> list[Path]:
    """The files that import it."""
    return [file.relative_to(ROOT) for file in FILES if any(library in one for one in of(file))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_small_and_says_why_it_exists(file) -> None:
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 400
    assert file.stem not in ("utils", "base", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(source)) or file.stem == "__main__"


# What raises a plain ValueError, TypeError or RuntimeError: validators of pydantic, our own faults.
PLAIN = {
    "descant/inputs/fit_section.py": 4,
    "descant/inputs/grid.py": 1,
    "descant/inputs/merge.py": 3,
    "descant/inputs/runfile.py": 14,
    "descant/inputs/sections.py": 11,
    "descant/serve/http/playground.py": 1,
    "descant/serve/protocol/schema/chats.py": 7,
    "descant/serve/protocol/schema/completions.py": 1,
    "descant/serve/protocol/schema/fields.py": 2,
    "descant/serve/protocol/schema/generation.py": 5,
    "descant/serve/protocol/schema/messages.py": 3,
    "descant/serve/protocol/schema/sampling.py": 1,
    "descant/serve/protocol/schema/prompts.py": 1,
    "descant/serve/protocol/schema/responses.py": 1,
    "descant/serve/protocol/schema/tokens.py": 2,
    "descant/serve/protocol/schema/tools.py": 4,
    "descant/serve/protocol/schema/score.py": 3,
    "descant/serve/worker/jobs.py": 1,
    "descant/train/states/recipe.py": 5,
    "descant/train/trainfile.py": 9,
    "formula/printer.py": 1,
    "formula/scalar.py": 1,
    "models/adapters/lora.py": 2,
    "models/checkpoint/description.py": 3,
    "models/checkpoint/files.py": 2,
    "models/checkpoint/gguf_header.py": 5,
    "models/checkpoint/spec.py": 12,
    "models/text/inputs.py": 1,
    "runtime/loops/search/groups.py": 1,
    "runtime/requests/per_row.py": 1,
    "runtime/scores/operators.py": 1,
    "runtime/scores/stages.py": 1,
    "runtime/service.py": 1,
}


def test_what_is_raised_to_users_has_one_base() -> None:
    """A new one is for users, who then see it as a bug: raise ``ArgumentError``, or one of ours."""
    counts: Counter[str] = Counter()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                name = ast.unparse(node.exc).partition("(")[0]
                if name in ("ValueError", "TypeError", "RuntimeError"):
                    counts[file.relative_to(ROOT).as_posix()] += 1
    assert counts == PLAIN


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
    if file != ROOT / "descant" / "serve" / "worker" / "encoders.py":  # of our own processes
        known = {one.partition(".")[0] for one in of(file)}
        assert not {"pickle", "dill", "joblib", "marshal"} & known
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
