"""How much a client may ask of the server. Numbers alone; gate.py and server.py hold to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        slots: rows that are decoded at once.
        max_model_len: tokens of one row, prompt and answer.
        max_queue: rows that may wait for a slot; a request beyond them is answered with 429.
        max_tokens: new tokens of one row.
        timeout: seconds from a request's arrival to its end.
        max_body: bytes of a request's body.
        max_formulas: compiled formulas that are kept beside those of the run file.
        shutdown_timeout: seconds that requests in flight have to finish in.
    """

    slots: int = 8
    max_model_len: int = 2048
    max_queue: int = 256
    max_tokens: int = 1024
    timeout: float = 600.0
    max_body: int = 1 << 20
    max_formulas: int = 32
    shutdown_timeout: float = 30.0
