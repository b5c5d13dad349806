"""A prompt with images: token ids, and what the model's processor gives besides them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class ImagePrompt(tuple[int, ...]):
    """The token ids of a prompt, placeholders of its images among them.

    Equal only to one with the same ids and the same inputs: ids alone do not tell images apart.

    Attributes:
        inputs: the model's arguments besides the ids, by name, as the processor gives them for a
            batch of one: ``pixel_values``, grids, sizes, token types. ``position_ids`` are rotary
            positions of several axes, where these are known.
    """

    inputs: Mapping[str, Any]

    def __new__(cls, ids: Iterable[int], inputs: Mapping[str, Any]) -> ImagePrompt:
        prompt = super().__new__(cls, ids)
        prompt.inputs = inputs
        return prompt

    @cached_property
    def key(self) -> bytes:
        """A hash of the inputs, which are what a model sees of the images."""
        digest = blake2b(digest_size=16)
        for name, tensor in _tensors("", self.inputs):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.cpu().float().numpy().tobytes())
        return digest.digest()

    def by_position(self, count: int) -> dict[str, Any]:
        """The inputs of its first ``count`` tokens: what has an item per token is cut there."""
        return {
            name: tensor[:, :count] if name.endswith("token_type_ids") else tensor
            for name, tensor in self.inputs.items()
        }

    def __repr__(self) -> str:
        return f"ImagePrompt({list(self)}, {self.key.hex()})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImagePrompt):
            return False
        return tuple.__eq__(self, other) and self.key == other.key

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple.__hash__(self), self.key))


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of inputs, each with its name; what models give together is nested."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _tensors(f"{name}.{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from _tensors(f"{name}.{number}", each)
    elif hasattr(value, "dtype"):
        yield name, value


def images_of(prompt: Any) -> ImagePrompt | None:
    """The prompt itself where it has images, else None."""
    return prompt if isinstance(prompt, ImagePrompt) else None
