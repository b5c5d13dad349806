"""The header of a GGUF file, walked before the gguf package reads it.

That package believes a file's counts: an array of 2**60 numbers is read for ever, and takes memory
all the time. Nothing of the header is kept here.
"""

from __future__ import annotations

import mmap
import struct

MOST = 1 << 22  # elements of all arrays together; the largest vocabularies have 2**18 tokens
DIMENSIONS = 4  # of a tensor, as ggml has it
VERSIONS = (2, 3)
_TEXT, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by kind


def check_header(path: str) -> None:
    """Check that a header's counts are of what is in the file.

    Raises:
        ValueError: they are not, or are beyond any model's.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = _Walk(data)
        tensors, keys = walk.number("Q"), walk.number("Q")
        for _ in range(keys):
            walk.text()
            walk.value(walk.number("I"))
        for _ in range(tensors):
            walk.text()
            if (dimensions := walk.number("I")) > DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            walk.skip(8 * dimensions + 4 + 8)  # sizes, type, offset


class _Walk:
    """A position in a header, and what is walked over."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._position, self._order = data, 4, "<"
        version = self.number("I")
        if version & 0xFFFF == 0:  # of the other byte order
            self._order, self._position = ">", 4
            version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, and {VERSIONS} are read")
        self._elements = 0

    def skip(self, count: int) -> int:
        """Go on by so many bytes; where they begin."""
        start, self._position = self._position, self._position + count
        if self._position > len(self._data):
            raise ValueError("its header goes beyond its end")
        return start

    def number(self, code: str) -> int:
        code = self._order + code
        number: int = struct.unpack_from(code, self._data, self.skip(struct.calcsize(code)))[0]
        return number

    def text(self) -> None:
        self.skip(self.number("Q"))

    def value(self, kind: int) -> None:
        if kind == _TEXT:
            self.text()
        elif kind != _ARRAY:
            self.skip(_size(kind))
        else:
            item, count = self.number("I"), self.number("Q")
            self._elements += count
            if self._elements > MOST:
                raise ValueError(f"its arrays have more than {MOST:,} elements")
            if item != _TEXT:
                self.skip(_size(item) * count)
                return
            for _ in range(count):
                self.text()


def _size(kind: int) -> int:
    if kind not in _SIZES:
        raise ValueError(f"it holds a value of the unknown kind {kind}")
    return _SIZES[kind]
