"""``descant``, but no model can read one token: what a bug in a model's code does to a server.

The process that decodes imports this module as well, and so has the bug.
"""

from __future__ import annotations

from typing import Any

import torch

from descant.cli import main

POISON = 1023  # one that the others do not draw
_embedding = torch.nn.functional.embedding


def embedding(ids: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
    if (ids == POISON).any():
        raise TypeError("unsupported operand of the poisoned model")
    return _embedding(ids, *args, **more)


if __name__ in ("__main__", "__mp_main__"):
    torch.nn.functional.embedding = embedding
if __name__ == "__main__":
    main()
