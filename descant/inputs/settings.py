"""Files of settings: what run files and train files share.

YAML is read as data and within limits, ``--set`` is one language, mistakes are told in one way, and
paths are looked for beside the file. It knows no key of either.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..models.checkpoint.spec import explain

SIZE, NODES, DEPTH = 2**22, 300_000, 50  # characters, values once aliases are followed, nesting


M = TypeVar("M", bound=BaseModel)


class SettingsError(ValueError):
    """A file of settings that cannot be read, or that says something it may not."""


class Refused(yaml.YAMLError):
    """YAML that is no file of settings: a key twice, or more than one may hold."""


class _Loader(yaml.SafeLoader):
    """YAML as version 1.2 reads it: ``on`` and ``1:30`` are words, and ``1e-3`` is a number."""

    def check(self, node: Node, sizes: dict[int, int], depth: int = 0) -> int:
        """How many values a document holds, each as often as it is named."""
        if depth > DEPTH:
            raise Refused(f"line {node.start_mark.line + 1} is more than {DEPTH} deep")
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise Refused(f"line {node.start_mark.line + 1} holds itself")
            return sizes[id(node)]
        sizes[id(node)] = -1
        inner: list[Node] = []
        if isinstance(node, SequenceNode):
            inner = node.value
        elif isinstance(node, MappingNode):
            _check_keys(node)
            inner = [part for pair in node.value for part in pair]
        count = 1 + sum(self.check(part, sizes, depth + 1) for part in inner)
        if count > NODES:
            raise Refused(f"it holds more than {NODES} values, by names for the same ones")
        sizes[id(node)] = count
        return count

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        self.check(node, {})
        return self.construct_document(node)


def _check_keys(node: MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, ScalarNode) and not key.tag.endswith(":merge"):
            if key.value in seen:
                problem = f"line {key.start_mark.line + 1}: the key {key.value} is there twice"
                raise Refused(problem)
            seen.add(key.value)


_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN))$"
)
_RULES = (  # the first that fits counts
    ("bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile("(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, rule) for tag, rule in rules if tag.rpartition(":")[2] in ("null", "merge", "value")
    ]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _rule, _starts in _RULES:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _rule, list(_starts))


def load_yaml(text: str) -> Any:
    """The content of a YAML document: data, and never an object.

    Raises:
        yaml.YAMLError: not YAML; ``Refused``: a key twice, or more than such a file may hold.

    >>> load_yaml("{adapter: org/arm, on: base, weight: 1e-3, name: 1:30}")
    {'adapter': 'org/arm', 'on': 'base', 'weight': 0.001, 'name': '1:30'}
    """
    if len(text) > SIZE:
        raise Refused(f"it has {len(text)} characters, and may have {SIZE}")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError:
        raise Refused(f"it is more than {DEPTH} deep") from None
    except ValueError as error:  # a number of thousands of digits
        raise Refused(str(error)) from None


@dataclass(frozen=True)
class Kind(Generic[M]):
    """One kind of file.

    Attributes:
        name: as messages say it.
        model: what it is, with its keys.
        keys: some of them, to name.
        error: what is raised.
        short: places where text is short for ``{key: text}``; ``*`` stands for any name.
        bare: the section whose keys ``--set`` takes by themselves, and what one of them is called.
    """

    name: str
    model: type[M]
    keys: tuple[str, ...]
    error: type[SettingsError]
    short: Mapping[str, str]
    bare: tuple[str, str]

    def read(self, path: str | Path) -> dict[str, Any]:
        """The keys and values of a file."""
        file = Path(path)
        if not file.is_file():
            raise self.error(f"there is no {self.name} {file}")
        if file.stat().st_size > 4 * SIZE:
            raise self.error(f"{file} is no {self.name}: it is larger than {4 * SIZE} bytes")
        try:
            content = load_yaml(file.read_text(encoding="utf-8"))
        except Refused as error:
            raise self.error(f"{file}: {error}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self.error(f"{file} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise self.error(
                f"{file} is not a {self.name}: it must hold keys such as {' and '.join(self.keys)}"
            )
        return content

    def validated(self, content: Mapping[str, Any], where: str) -> M:
        """The content of a file, checked; a line per mistake."""
        try:
            return self.model.model_validate(content)
        except ValidationError as error:
            raise self.error(f"{where}: {explain(error, self.model)}") from None

    def override(
        self,
        content: dict[str, Any],
        said: str,
        more: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Set what ``--set`` says: ``key=value``, a dotted key or the bare name of a section's.

        Args:
            content: of the file.
            said: what stands behind ``--set``.
            more: keys that the section may have, beside those that it has.
        """
        section, called = self.bare
        path, value = self._split(said)
        key, held = ".".join(path), content.get(section)
        names = [*held] if isinstance(held, dict) else []
        if key not in names and path[0] not in self.model.model_fields:
            names += more()
            if key not in names:
                cure = suggestion(key, [*names, *self.model.model_fields])
                raise self.error(f"--set {said}: there is no option or {called} {key}{cure}")
        self._put(content, [section, key] if key in names else path, value, said)

    def _put(self, content: dict[str, Any], path: list[str], value: Any, said: str) -> None:
        """Set a value at a dotted key; what was short for a section becomes one."""
        place = content
        for depth, part in enumerate(path[:-1], 1):
            nested = place.get(part)
            if isinstance(nested, str) and (key := self._short(path[:depth])):
                nested = {key: nested}
            if not isinstance(nested, dict | None):
                raise self.error(f"--set {said}: {part} holds no keys")
            place[part] = dict(nested or {})
            place = place[part]
        place[path[-1]] = value

    def _split(self, override: str) -> tuple[list[str], Any]:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise self.error(f"--set {override}: write --set name=value")
        try:
            return key.split("."), load_yaml(text)
        except yaml.YAMLError:
            raise self.error(f"--set {override}: {text!r} is not a value") from None

    def _short(self, path: list[str]) -> str | None:
        found = self.short.get(".".join(path))
        return found or self.short.get(".".join([*path[:-1], "*"]))


def beside(folder: Path, path: str | None) -> str | None:
    """A relative path that exists beside a file is meant there."""
    return str(folder / path) if path and (folder / path).exists() else path


def suggestion(key: str, known: Iterable[str]) -> str:
    """A name that has the key as initials, holds it, or is spelled almost so."""
    known = list(known)
    near = [name for name in known if key == "".join(part[:1] for part in name.split("_"))]
    near += [name for name in known if key in name and len(key) > 3]
    near += difflib.get_close_matches(key, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(known)}" if len(known) < 20 else ""
