"""GGUF files: found, checked, and described in a folder that reads like any other checkpoint.

transformers rebuilds a configuration and a tokenizer from a file's metadata. That takes seconds, so
both are kept in a cache folder under the hash of the file; ``loading/unpack.py`` adds the weights.
What the file says and transformers leaves out is refused here, by name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from filelock import FileLock
from huggingface_hub import cached_assets_path
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
)

from ...disk import DiskError, disk_error, make_folder, saving, written
from ...extras import pip_install
from ..errors import ModelError, first_line, read_by_a_library
from .gguf_metadata import check_config, check_tokenizer, end_ids, float_type, metadata_of, set_rope
from .hub import cached, hub_error

_log = logging.getLogger("descant")
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_DIGESTS = "digests"  # in the cache, the hashes of files by their size and time
_NO_TOKENIZER = "no-tokenizer.txt"  # in a description, why the file's own is not used


def is_gguf(path: Any) -> bool:
    """Whether a source names a GGUF file."""
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).lower().endswith(".gguf")


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file on this machine.

    Attributes:
        name: the declared model.
        parts: its files, in order; one where it is not split.
        digest: the SHA-256 of their contents, in hexadecimal.
    """

    name: str
    parts: tuple[str, ...]
    digest: str

    @property
    def cache(self) -> Path:
        """Its folder in the cache; what transformers reads may change with its version."""
        return _assets(self.name, self.digest) / f"transformers-{transformers.__version__}"

    def kept(self, entry: str, write: Callable[[Path], None]) -> str:
        """A folder of the cache, written first if need be, by one process, in one move.

        Raises:
            ModelError: the cache cannot be written.
        """
        folder, lock = self.cache / entry, self.cache / f"{entry}.lock"
        try:
            make_folder(self.cache)
            with saving(lock):
                held = FileLock(lock).acquire()
            with held:
                if not folder.is_dir():
                    with written(folder) as partial:
                        partial.mkdir()
                        write(partial)
        except DiskError as error:
            raise _not_written(self.name, error) from error
        return str(folder)

    @contextlib.contextmanager
    def as_one(self, folder: Path) -> Iterator[str]:
        """The path of one file with everything in it: the file, or its parts merged for now.

        ``folder`` is one that is being written, and has the merged file meanwhile.
        """
        if len(self.parts) == 1:
            yield self.parts[0]
            return
        merged = folder / "parts" / "merged.gguf"
        make_folder(merged.parent)
        _merge(self.parts, str(merged))
        yield str(merged)
        with saving(merged):  # after a failure, whoever writes the folder removes it
            merged.unlink()
            merged.parent.rmdir()

    def error(self, problem: str, cure: str) -> ModelError:
        """An error that names the file and the model."""
        return ModelError(f"{self.parts[0]} of {self.name} {problem}", cure, self.name)


def gguf_file(name: str, path: str, revision: str | None) -> GgufFile:
    """Find a GGUF file: a path, or ``owner/repository/file.gguf`` on the hub.

    Raises:
        ModelError: not there, a part that is missing, or no package to read it with.
    """
    if find_spec("gguf") is None:
        problem = f"{name} is the GGUF file {path}, and the package that reads it is not installed"
        raise ModelError(problem, pip_install("gguf"), name)
    first, count = _first_part(name, path)
    local = os.path.isfile(first)
    if not local and (path.startswith((".", "/", "~")) or path.count("/") < 2):
        problem = f"there is no file {first} for the model {name}"
        raise ModelError(problem, "give the path of a .gguf file", name)
    parts = [_PART.sub(f"-{number + 1:05}-of-{count:05}.gguf", first) for number in range(count)]
    if not local:
        parts = [_from_hub(name, part, revision) for part in parts]
    for number, part in enumerate(parts):
        if not os.path.isfile(part):
            problem = f"the GGUF file of {name} is split, and part {number + 1} of {count} is not "
            problem += f"there: {part}"
            raise ModelError(problem, "copy or download it again, beside the other parts", name)
    for part in parts:
        _check_magic(name, part)
    return GgufFile(name, tuple(parts), _digest(name, parts))


def described(file: GgufFile) -> str:
    """The folder with a file's configuration, tokenizer and ends of text.

    Raises:
        ModelError: torn, of an architecture that transformers does not read, or with something
            in it that transformers leaves out.
    """
    return file.kept("description", functools.partial(_describe, file))


def _describe(file: GgufFile, folder: Path) -> None:
    _log.warning("%s: reading the description of %s, kept for later", file.name, file.parts[0])
    with file.as_one(folder) as path, parsed_once():
        where = {"pretrained_model_name_or_path": os.path.dirname(os.path.abspath(path))}
        where["gguf_file"] = os.path.basename(path)
        metadata = metadata_of(file.name, path)
        problem: str | None

        def unreadable(error: BaseException) -> ModelError:
            cure = "transformers reads the GGUF files of some architectures; give the safetensors "
            return file.error(f"cannot be read: {first_line(error)}", f"{cure}checkpoint")

        with read_by_a_library(unreadable):
            config = AutoConfig.from_pretrained(**where)
        check_config(file.name, path, metadata, config)
        set_rope(file.name, path, metadata, config)
        config.dtype = float_type(metadata)
        if (causal := MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)) is not None:
            config.architectures = [causal.__name__]
        config.save_pretrained(folder)
        ends = end_ids(metadata)
        GenerationConfig(eos_token_id=ends or None).save_pretrained(folder)
        try:
            with read_by_a_library(unreadable):
                tokenizer = AutoTokenizer.from_pretrained(**where)
                problem = check_tokenizer(metadata, tokenizer)
        except ModelError as error:
            problem = f"cannot be read: {first_line(error.__cause__ or error)}"
        if problem is None:
            tokenizer.save_pretrained(folder)
        else:
            (folder / _NO_TOKENIZER).write_text(problem, encoding="utf-8")


def check_own_tokenizer(name: str, path: str, folder: str) -> None:
    """Refuse a description whose tokenizer transformers does not read as it was made.

    Raises:
        ModelError: so, with the reason.
    """
    reason = Path(folder) / _NO_TOKENIZER
    if reason.is_file():
        problem = f"the tokenizer of {name} in {path} {reason.read_text(encoding='utf-8')}"
        raise ModelError(problem, "name the original one with tokenizer: …", name)


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Parse each file's header once, and name its tensors once.

    transformers does the first for each of its questions, which with 262,144 tokens takes nine
    seconds, and the second for each of a model's modules.
    """
    package: Any = import_module("gguf")
    parse, name = package.GGUFReader, package.get_tensor_name_map
    package.GGUFReader, package.get_tensor_name_map = functools.cache(parse), functools.cache(name)
    try:
        yield
    finally:
        package.GGUFReader, package.get_tensor_name_map = parse, name


def _first_part(name: str, path: str) -> tuple[str, int]:
    """The path of a file's first part, and the number of its parts."""
    path = os.path.expanduser(path)
    match = _PART.search(path)
    if match is None:
        return path, 1
    number, count = int(match[1]), int(match[2])
    if not 1 <= number <= count:
        problem = f"the GGUF file of {name}, {path}, says that it is part {number} of {count}"
        raise ModelError(problem, "give the first part", name)
    return _PART.sub(f"-00001-of-{count:05}.gguf", path), count


def _from_hub(name: str, path: str, revision: str | None) -> str:
    owner, repository, file = path.split("/", 2)
    source = f"{owner}/{repository}"
    other = f"{path} cannot be found: ", "give the path of a .gguf file, or owner/repository/file"
    try:
        downloaded = cached(source, file, revision)
    except OSError as error:
        raise hub_error(error, source, revision, name, other, f"the model {name}: ") from error
    assert downloaded is not None
    return downloaded


def _check_magic(name: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        problem = f"{path} of the model {name} cannot be read: {error.strerror}"
        raise ModelError(problem, "give a file that this user may read", name) from error
    if magic != b"GGUF":
        problem = f"{path} of the model {name} is no GGUF file: it begins with {magic!r}"
        raise ModelError(problem, "copy or download it again", name)


def _assets(name: str, folder: str) -> Path:
    """A folder of the cache."""
    try:
        return Path(cached_assets_path("descant", "gguf", folder))
    except OSError as error:
        raise _not_written(name, disk_error(Path(error.filename), "written", error)) from error
    except ValueError as error:
        raise _not_written(name, error) from error


def _not_written(name: str, error: Exception) -> ModelError:
    problem = f"the GGUF file of {name} cannot be unpacked into the cache: {first_line(error)}"
    return ModelError(problem, "set HF_HOME to a folder that can be written and has room", name)


def _digest(name: str, parts: list[str]) -> str:
    """The SHA-256 of files; kept under their size and time, since large ones take minutes."""
    stats = [(os.path.realpath(part), os.stat(part)) for part in parts]
    key = repr([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])
    root = _assets(name, _DIGESTS)
    memo = root / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        if re.fullmatch(r"[0-9a-f]{64}", digest := memo.read_text(encoding="ascii")):
            return digest
    sha = hashlib.sha256()
    for part in parts:
        with open(part, "rb") as file:
            while block := file.read(1 << 24):
                sha.update(block)
    with contextlib.suppress(DiskError), written(memo, shared=True) as partial:
        partial.write_text(sha.hexdigest(), encoding="ascii")
    return sha.hexdigest()


def _merge(parts: tuple[str, ...], path: str) -> None:
    """Write the parts of a split file as one, as llama.cpp's own tool does."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    opened = [GGUFReader(part) for part in parts]
    architecture = opened[0].fields["general.architecture"].contents()
    writer = GGUFWriter(path, architecture)
    for key, field in opened[0].fields.items():
        if key.startswith(("GGUF.", "split.")) or key == "general.architecture":
            continue
        item = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=item)
    for file in opened:
        for tensor in file.tensors:
            data = with_checked_writes(tensor.data)
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def with_checked_writes(values: Any) -> Any:
    """An array whose ``tofile`` fails where the disk does: numpy's own would leave zeros there."""
    kind = type(values)

    def tofile(array: Any, file: Any) -> None:
        file.write(memoryview(array).cast("B"))

    return values.view(type(kind.__name__, (kind,), {"tofile": tofile}))


def unpacked_files() -> tuple[Path, int, int]:
    """The cache: its folder, how many files are unpacked in it, and the bytes that they take."""
    root = Path(cached_assets_path("descant", "gguf", _DIGESTS)).parent
    files = [entry for entry in root.iterdir() if entry.name != _DIGESTS]
    return root, len(files), sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
