"""What other libraries log while they are imported, about which a user can do nothing.

transformers imports torchao where it is installed: that logs each of its kernels for other
machines, and torch that two of its classes need no registration. All else that they log is shown.
"""

from __future__ import annotations

import logging
from functools import partial

NOISE = {"torchao": "Failed to load ", "torch.utils._pytree": "is an Enum subclass"}


def quiet_imports() -> None:
    """Leave these lines out, in this process."""
    for name, words in NOISE.items():
        logging.getLogger(name).addFilter(partial(_lacks, words))


def _lacks(words: str, record: logging.LogRecord) -> bool:
    return words not in str(record.msg)
