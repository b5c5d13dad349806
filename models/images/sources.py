"""Where images come from: PIL's own, files, data, and addresses that somebody has allowed.

What is read is bounded in bytes and pixels before it is decoded. Only plain pictures are decoded.
"""

from __future__ import annotations

import base64
import binascii
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ...extras import pip_install
from ..errors import ModelError, first_line

BYTES = 1 << 25  # of an image's file
PIXELS = 1 << 26
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # which PIL decodes by itself


@dataclass(frozen=True)
class Sources:
    """Where images may come from.

    Attributes:
        files: whether from files.
        fetch: gives the bytes at an address, or raises ``ModelError``; None where no address is
            allowed.
    """

    files: bool = True
    fetch: Callable[[str, str], bytes] | None = None

    def image(self, where: str, key: str, value: Any) -> Any:
        """An image of PIL's.

        Args:
            where: names the part, for an error.
            key: ``image``, ``path``, ``base64`` or ``url``.
            value: of that key; an ``image`` may be any of the others, too.

        Raises:
            ModelError: it is none, too large, or from where nothing is allowed.
        """
        pil = _pil(where)
        if isinstance(value, pil.Image):
            return _checked(where, value)
        if key == "image" and isinstance(value, bytes):
            return _decoded(where, value)
        if isinstance(value, os.PathLike):
            value, key = os.fspath(value), "path"
        if not isinstance(value, str):
            kind = type(value).__name__
            cure = "give an image of PIL's, a path, base64 data or a data URL"
            raise ModelError(f"{where} is a {kind}, not an image", cure)
        if value.startswith("data:"):
            return _decoded(where, _of_data_url(where, value))
        if value.startswith(("http://", "https://")):
            return _decoded(where, self._fetched(where, value))
        if key == "path" or (key == "image" and self.files and is_file(value)):
            return _decoded(where, self._of_file(where, value))
        if key == "url":
            problem = f"{where} has the address {value[:40]!r}"
            raise ModelError(problem, "an address begins with data:, https:// or http://")
        return _decoded(where, _of_base64(where, value, key == "image"))

    def _fetched(self, where: str, address: str) -> bytes:
        if self.fetch is None:
            problem = f"{where} is at {address[:60]}, and nothing is fetched from the network"
            cure = "give the image itself, as data; or allow its host, allowed_media_domains"
            raise ModelError(problem, cure)
        return self.fetch(where, address)

    def _of_file(self, where: str, path: str) -> bytes:
        if not self.files:
            raise ModelError(f"{where} is a file, and none is read for others", "send its data")
        try:
            with Path(path.removeprefix("file://")).expanduser().open("rb") as file:
                return file.read(BYTES + 1)
        except OSError as error:
            problem = f"{where} is the file {path[:80]}, which cannot be read: "
            raise ModelError(problem + (error.strerror or first_line(error))) from None


FILES = Sources()
NO_FILES = Sources(files=False)


def is_file(value: str) -> bool:
    """Whether text is a path rather than data; what is no file is data."""
    if value.startswith("file://"):
        return True
    try:
        return len(value) < 4096 and Path(value).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _pil(where: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ModelError(
            f"{where} is an image, and pillow is not installed", pip_install("images")
        ) from None
    return Image


def _of_data_url(where: str, url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        problem = f"{where} has a data URL without base64 data"
        raise ModelError(problem, "write data:image/png;base64,…")
    return _of_base64(where, data, False)


def _of_base64(where: str, data: str, maybe_path: bool) -> bytes:
    _check_bytes(where, len(data) * 3 // 4)
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        if maybe_path:
            problem = f"{where} is {data[:40]!r}: there is no such file, and it is no base64 data"
        else:
            problem = f"{where} is no base64 data"
        raise ModelError(problem, "give a path, or the bytes of an image in base64") from None


def _check_bytes(where: str, size: int) -> None:
    if size > BYTES:
        problem = f"{where} has more than {BYTES >> 20} MB"
        raise ModelError(problem, "make the image smaller")


def _checked(where: str, image: Any) -> Any:
    """An image that is neither too large nor animated."""
    width, height = image.size
    if width * height > PIXELS:
        problem = f"{where} has {width} by {height} pixels, and may have {PIXELS}"
        raise ModelError(problem, "make the image smaller")
    if not width * height:
        raise ModelError(f"{where} has no pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise ModelError(f"{where} is animated", "give one picture of it")
    return image


def _decoded(where: str, data: bytes) -> Any:
    """An image in RGB, upright, as transformers loads one."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    _check_bytes(where, len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = _checked(where, Image.open(BytesIO(data), formats=FORMATS))
            return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:
        raise ModelError(f"{where} has too many pixels", f"it may have {PIXELS}") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ModelError(f"{where} is no image that can be read", f"known are {known}") from None
    except ModelError:
        raise
    except Exception as error:  # decoders raise any, of data that is cut short or wrong
        problem = f"{where} is a broken image: {first_line(error)}"
        raise ModelError(problem, "send it again") from None
