"""The kernels between the products of a decoder layer, held against torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .findings import BROKEN, NOTE, OK, Finding
from .kernels import deviation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EPS, PAGE, SEED = 1e-5, 256, 21


class Shape(NamedTuple):
    """Of a layer: hidden and feed-forward size, heads of queries and of keys, a head's size.

    Attributes:
        norms: whether queries and keys have norms.
    """

    hidden: int
    inner: int
    heads: int
    groups: int
    size: int
    norms: bool = False


SHAPES = {
    "Llama 3.1 8B": Shape(4096, 14336, 32, 8, 128),
    "Qwen3 0.6B": Shape(1024, 3072, 16, 8, 128, True),
    "odd sizes": Shape(1000, 1030, 6, 2, 80, True),
}
DTYPES = ("bfloat16", "float16", "float32")
Call = Callable[..., Any]


def calls(
    shape: Shape, dtype: torch.dtype, device: str, rows: int = 3, queries: int = 2
) -> dict[str, tuple[Call, Call, tuple[Any, ...]]]:
    """Of each kernel: what runs it, torch's operations, and arguments for either."""
    import torch

    from ..models.layers import gated, norms

    generator = torch.Generator().manual_seed(SEED)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(device, dtype)

    hidden, added, weight = (random(rows, queries, shape.hidden) for _ in "xyw")
    angles = torch.rand(rows, queries, shape.size // 2, generator=generator).repeat(1, 1, 2) * 99
    turns = tuple(each.to(device, dtype) for each in (angles.cos(), angles.sin()))
    joined = random(rows, queries, (shape.heads + 2 * shape.groups) * shape.size)
    pools = [random(rows + 1, PAGE, shape.groups, shape.size) for _ in "kv"]
    pages = torch.arange(rows, device=device)[:, None].expand(rows, queries).contiguous()
    places = torch.arange(queries, device=device).expand(rows, queries).contiguous()
    weights = (random(shape.size), random(shape.size)) if shape.norms else None
    rotation = joined, *turns, *pools, pages, places, weights, EPS
    sums = hidden, added, weight[0, 0], EPS
    return {
        "rms_norm": (norms.rms_norm, norms.plain_rms_norm, (hidden, *sums[2:])),
        "add_rms_norm": (norms.add_rms_norm, plain_sum, sums),
        "rotate_into_pages": (turned, plain_turned, rotation),
        "gated": (gated.gated, gated.plain_gated, (random(rows, queries, 2 * shape.inner),)),
    }


def plain_sum(hidden: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``add_rms_norm`` by torch's operations."""
    from ..models.layers.norms import plain_rms_norm

    total = hidden + added
    return total, plain_rms_norm(total, weight, eps)


def turned(*arguments: Any) -> tuple[Tensor, ...]:
    """Queries, and the pages of keys and of values."""
    from ..models.layers.rotary import rotate_into_pages

    return rotate_into_pages(*arguments).transpose(1, 2), arguments[3], arguments[4]


def plain_turned(*arguments: Any) -> tuple[Tensor, ...]:
    """The same by torch's operations."""
    from ..models.layers.rotary import plain_rotation

    return plain_rotation(*arguments), arguments[3], arguments[4]


def layers(dtype: str, name: str, device: str = "cuda") -> Iterator[Finding]:
    """Each kernel of a layer, against torch's operations in float32 on the same numbers."""
    import torch

    from ..models.cache.live import TOLERANCE
    from ..models.kernels.gpu import why_disabled, why_no_triton

    title, kind = f"layers {dtype}, {name}", getattr(torch, dtype)
    capability = torch.cuda.get_device_capability(device) if device.startswith("cuda") else None
    if why := why_disabled("layers") or why_no_triton(capability):
        yield Finding(title, NOTE, f"transformers' code computes layers: {why}")
        return
    apart = {}
    for operation, (kernel, plain, arguments) in calls(SHAPES[name], kind, device).items():
        wide = [_in_float32(each) for each in arguments]  # before the kernel writes
        found, expected = kernel(*arguments), plain(*wide)
        if isinstance(found, torch.Tensor):
            found, expected = (found,), (expected,)
        apart[operation] = max(map(deviation, found, expected))
    worst, share = max(apart.items(), key=lambda pair: pair[1])
    message = f"{worst} {share:.2g} of the largest output apart; at most {TOLERANCE[kind]:g}"
    yield Finding(title, OK if share <= TOLERANCE[kind] else BROKEN, message, data=apart)


def _in_float32(value: Any) -> Any:
    """A copy in float32 of numbers; positions and settings as they are."""
    import torch

    if isinstance(value, tuple):
        return tuple(map(_in_float32, value))
    is_number = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(torch.float32, copy=True) if is_number else value
