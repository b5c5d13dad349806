"""What is fuzzed: functions of bytes, out of which nothing may come but a ``DescantError``.

A target is a law, or a group of readers of which the first byte chooses one for the bytes after it.
Whatever else is raised, or does not end, is a finding.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
sys.path[:0] = [str(HERE.parent / folder) for folder in ("", "faults", "laws")]

Target = Callable[[bytes], None]
T = TypeVar("T")


def formula(data: bytes) -> None:
    """A text is refused with its place; or it has a plan, and its printed form the same."""
    from descant import FormulaError
    from descant.formula import Names, make_plan
    from descant.grammar import parse, text

    names = Names(frozenset(("base", "arm", "rm")), frozenset("ab"), {"child": "You are a child."})
    written = data.decode("utf-8", "replace")
    try:
        plan = make_plan(written, names)
    except FormulaError as error:
        assert len(str(error)) <= 2000 and 0 <= error.span.start <= error.span.end, error
        return
    printed = text(parse(written))
    assert text(parse(printed)) == printed, printed
    assert make_plan(printed, names).scores == plan.scores, printed


def meaning(data: bytes) -> None:
    """The batched step is what the interpreter says, in double precision."""
    _law()(data)


@cache
def _law() -> Target:
    from hypothesis import given, settings
    from random_formulas import formulas, linear
    from test_laws import hold, law, params, texts

    def holds(tree: Any, given_params: Any, prompt: Any, made: Any) -> None:
        hold(tree, given_params, prompt, made)

    checked = settings(law, database=None)(given(linear | formulas, params, texts, texts)(holds))
    return checked.hypothesis.fuzz_one_input  # type: ignore[attr-defined, no-any-return]


def request(data: bytes) -> None:
    """A body is read, or refused in OpenAI's form."""
    from descant.serve.protocol.schema import BODIES

    path, body = chosen(data, [*BODIES])
    answer = _client().post(path, content=body, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        assert answer.status_code == 400, answer
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error" and len(error["message"]) <= 2000, error


@cache
def _client() -> Any:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from descant.serve.protocol import errors, schema

    app = FastAPI()
    errors.add_error_handlers(app)
    for path, kind in schema.BODIES.items():

        def read(body: Any) -> dict[str, Any]:
            return {}

        read.__annotations__["body"] = kind
        app.post(path)(read)
    return TestClient(app)


def files(data: bytes) -> None:
    """Run files, train files, prompts and data."""
    from readers import FILES

    _read(*chosen(data, FILES))


def checkpoints(data: bytes) -> None:
    """Configurations, tokenizers, templates, weights and adapters."""
    _read(*chosen(data, _model_readers()))


@cache
def _model_readers() -> list[Any]:
    from checkpoints import Checkpoints
    from readers import model_readers

    return model_readers(Checkpoints(Path(tempfile.mkdtemp(prefix="descant-fuzz-zoo-"))))


def _read(reader: Any, content: bytes) -> None:
    from descant import DescantError

    folder = _folder(reader.name)
    file = folder / _good(reader).relative_to(folder)
    file.write_bytes(content)
    try:
        reader.read(file)
    except DescantError as error:
        assert len(str(error)) <= 2000, error


@cache
def _folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="descant-fuzz-"))


_made: dict[str, Path] = {}


def _good(reader: Any) -> Path:
    """The file that a reader reads, which is made once."""
    if reader.name not in _made:
        _made[reader.name] = reader.make(_folder(reader.name))
    return _made[reader.name]


def planted(data: bytes) -> None:
    """With a bug that a search must find: nobody fuzzes it but the test of the search."""
    if data[:1] == b"B" and data[1:2] == b"U" and data[2:3] == b"G":
        raise ValueError("planted")


def chosen(data: bytes, group: Sequence[T]) -> tuple[T, bytes]:
    """One of a group, by the first byte, and the other bytes."""
    return group[data[0] % len(group) if data else 0], data[1:]


TARGETS: dict[str, Target] = {
    "formula": formula, "meaning": meaning, "request": request, "files": files,
    "checkpoints": checkpoints,
}  # fmt: skip


def seeds(name: str) -> Iterator[bytes]:
    """Inputs to begin with: the committed corpus, and what each reader reads as it should be."""
    folder = CORPUS / name
    yield from (file.read_bytes() for file in sorted(folder.glob("*")))
    if name in ("files", "checkpoints"):
        from readers import FILES

        group = FILES if name == "files" else _model_readers()
        for number, reader in enumerate(group):
            yield bytes([number]) + _good(reader).read_bytes()


def quiet() -> None:
    """Nothing is printed of what is known to be wrong."""
    import logging

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
