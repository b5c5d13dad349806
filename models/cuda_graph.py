"""A CUDA graph: device work recorded once, and then replayed over the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class CudaGraph:
    """A recording by CUDA. What it allocates lives in memory that the next replay overwrites.

    Args:
        device: that all of the work is on.
        pool: memory that recordings share which are never replayed at the same time.
    """

    def __init__(self, device: torch.device, pool: Any) -> None:
        self._device, self._pool = device, pool
        self._graph = torch.cuda.CUDAGraph()

    @staticmethod
    def new_pool() -> Any:
        """A pool of memory for recordings."""
        return torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Result]) -> Result:
        """Call the function, without doing its device work.

        Raises:
            RuntimeError: the work does what no graph can hold.
        """
        mode = "thread_local"  # other threads may use the device meanwhile
        recording = torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode=mode)
        with torch.cuda.device(self._device), recording:
            return work()

    def replay(self) -> None:
        """Do the device work."""
        with torch.cuda.device(self._device):
            self._graph.replay()
