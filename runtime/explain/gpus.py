"""GPUs that a formula is planned for: what each holds and reads, by its name.

Memory is what the driver reports as total; bandwidths are the makers' figures.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ...errors import ArgumentError, quoted

GIB = 1 << 30
NETWORK = 50e9  # bytes per second between two nodes: one 400 Gb/s adapter for each GPU
PCIE = 25e9  # bytes per second between two GPUs without NVLink
MOST = 4096  # GPUs


class Gpu(NamedTuple):
    """A kind of GPU.

    Attributes:
        name: as it is written.
        memory: bytes.
        bandwidth: bytes of memory per second.
        flops: operations per second of dense products in bfloat16.
        link: bytes per second to another GPU of the node, in one direction.
    """

    name: str
    memory: int
    bandwidth: float
    flops: float
    link: float

    def positions(self, itemsize: int) -> int:
        """Positions in a forward beyond which its products take longer than reading its weights.

        A weight is read once, and multiplied and added once for each.

        Args:
            itemsize: bytes of a weight.
        """
        return int(self.flops * itemsize / (2 * self.bandwidth))


GPUS = {
    gpu.name.lower(): gpu
    for gpu in (
        Gpu("B200", 178 * GIB, 8.0e12, 2.25e15, 900e9),
        Gpu("H200", 139 * GIB, 4.8e12, 989e12, 450e9),
        Gpu("H100", 79 * GIB, 3.35e12, 989e12, 450e9),
        Gpu("A100-80GB", 79 * GIB, 2.04e12, 312e12, 300e9),
        Gpu("A100-40GB", 39 * GIB, 1.55e12, 312e12, 300e9),
        Gpu("L40S", 44 * GIB, 0.864e12, 362e12, PCIE),
        Gpu("A10G", 22 * GIB, 0.6e12, 70e12, PCIE),
        Gpu("L4", 22 * GIB, 0.3e12, 121e12, PCIE),
        Gpu("RTX4090", 23 * GIB, 1.01e12, 165e12, PCIE),
    )
}
_WRITTEN = re.compile(r"(?:(\d+)x)?(?:(\d+)x)?([A-Za-z][\w-]*)")


class Devices(NamedTuple):
    """GPUs of one kind, in nodes of as many each."""

    nodes: int
    per_node: int
    gpu: Gpu

    @property
    def total(self) -> int:
        """How many there are, over all nodes."""
        return self.nodes * self.per_node

    @property
    def slowest_link(self) -> float:
        """Bytes per second between the two that are farthest apart."""
        return self.gpu.link if self.nodes == 1 else min(NETWORK, self.gpu.link)

    def __str__(self) -> str:
        nodes = f"{self.nodes} nodes of " if self.nodes > 1 else ""
        return f"{nodes}{self.per_node} x {self.gpu.name}"


def parse_devices(text: str) -> Devices:
    """GPUs as they are written: ``H200``, ``8xH200``, or ``4x8xH200`` for four nodes of eight.

    Raises:
        ArgumentError: no such GPU, or not so written.

    >>> str(parse_devices("4x8xH200"))
    '4 nodes of 8 x H200'
    """
    known = ", ".join(gpu.name for gpu in GPUS.values())
    matched = _WRITTEN.fullmatch(text.strip())
    if matched is None:
        problem = f"--devices {quoted(text)} cannot be read"
        raise ArgumentError(f"{problem}; write 8xH200, or 4x8xH200 for four nodes of eight")
    first, second, name = matched.groups()
    if name.lower() not in GPUS:
        raise ArgumentError(f"there is no GPU {quoted(name)} in the table; there are {known}")
    nodes, per_node = (int(first or 1), int(second)) if second else (1, int(first or 1))
    if not 1 <= nodes * per_node <= MOST:
        raise ArgumentError(f"--devices counts {nodes * per_node} GPUs; it may be 1 to {MOST}")
    return Devices(nodes, per_node, GPUS[name.lower()])
