"""Files of settings: what run files and train files share, whatever their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import DescantError, quoted
from ..grammar import did_you_mean
from ..models.invalid import explain
from .yaml import SIZE, YamlError, load_yaml

M = TypeVar("M", bound=BaseModel)


class SettingsError(DescantError, ValueError):
    """A file of settings that cannot be read or is not valid."""


@dataclass(frozen=True)
class FileKind(Generic[M]):
    """One kind of file."""

    name: str  # of the kind, for messages
    model: type[M]
    keys: tuple[str, ...]  # examples, for messages
    error: type[SettingsError]
    short: Mapping[str, str]  # where text is short for ``{key: text}``; ``*`` is any name
    bare: tuple[str, str]  # the section whose keys ``--set`` takes alone, and what one is called

    def read(self, path: str | Path) -> dict[str, Any]:
        """The keys and values of a file."""
        file = Path(path)
        if not file.is_file():
            raise self.error(f"there is no {self.name} {file}")
        try:
            if file.stat().st_size > 4 * SIZE:
                raise self.error(f"{file} is no {self.name}: it is larger than {4 * SIZE} bytes")
            content = load_yaml(file.read_text(encoding="utf-8-sig"))
        except YamlError as error:
            raise self.error(f"{file} {error}") from None
        except UnicodeDecodeError as error:
            raise self.error(f"{file} is not UTF-8 text: {error.reason}") from None
        except OSError as error:
            raise self.error(f"{file} cannot be read: {error.strerror}") from None
        if not isinstance(content, dict):
            keys = " and ".join(self.keys)
            raise self.error(f"{file} is not a {self.name}: it must hold keys such as {keys}")
        return content

    def validated(self, content: Mapping[str, Any], where: str) -> M:
        """The content of a file, checked; the error names every mistake."""
        try:
            return self.model.model_validate(content)
        except ValidationError as error:
            raise self.error(f"{where}: {explain(error, self.model)}") from None

    def override(
        self, content: dict[str, Any], text: str, more: Callable[[], Iterable[str]] = tuple
    ) -> None:
        """Apply ``--set``: ``key=value``, with a dotted key or one of the bare section.

        ``more`` returns keys that the bare section may have and does not hold yet.
        """
        section, called = self.bare
        key, sign, written = text.partition("=")
        if not sign or not key:
            raise self.error(f"--set {text}: write --set name=value")
        try:
            value = load_yaml(written)
        except YamlError:
            raise self.error(f"--set {text}: {quoted(written)} is not a value") from None
        path, values = key.split("."), content.get(section)
        names = [*values] if isinstance(values, dict) else []
        if key not in names and path[0] not in self.model.model_fields:
            names += more()
            if key not in names:
                cure = did_you_mean(key, [*names, *self.model.model_fields])
                raise self.error(f"--set {text}: there is no option or {called} {key}; {cure}")
        self._put(content, [section, key] if key in names else path, value, text)

    def _put(self, content: dict[str, Any], path: list[str], value: Any, text: str) -> None:
        """Set a value at a path; text that is short for a section becomes the section."""
        parent = content
        for depth, part in enumerate(path[:-1]):
            nested = parent.get(part)
            before, get = path[:depth], self.short.get
            key = get(".".join([*before, part])) or get(".".join([*before, "*"]))
            if isinstance(nested, str) and key:
                nested = {key: nested}
            if not isinstance(nested, dict | None):
                raise self.error(f"--set {text}: {part} holds no keys")
            parent[part] = dict(nested or {})
            parent = parent[part]
        parent[path[-1]] = value


def relative_to(folder: Path, path: Any) -> Any:
    """A path in a folder, where it exists there; else the path, or what is none, as it is."""
    is_path = isinstance(path, str) and path
    return str(folder / path) if is_path and (folder / path).exists() else path
