"""The limits on what clients may request; guard.py and server.py enforce them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        slots: rows decoded at once.
        max_model_len: tokens of one row, prompt and answer.
        max_queue: rows that may wait for a slot; a request beyond them is answered with 429.
        max_tokens: new tokens of one row.
        timeout: seconds from a request's arrival to its end.
        max_body: bytes of a request's body.
        max_formulas: compiled formulas that are kept, not counting those of the run file.
        shutdown_timeout: seconds in which running requests may finish.
        allowed_media_domains: hosts that images are fetched from; ``*`` for any. None by default:
            images come as data.
        runtime_lora_dirs: folders below which adapters and vectors may be loaded while the server
            runs; none by default.
        max_logprobs: of the best tokens that each token may be told with; OpenAI's is 20.
    """

    slots: int = 8
    max_model_len: int = 2048
    max_queue: int = 256
    max_tokens: int = 1024
    timeout: float = 600.0
    max_body: int = 1 << 20
    max_formulas: int = 32
    shutdown_timeout: float = 30.0
    allowed_media_domains: tuple[str, ...] = ()
    runtime_lora_dirs: tuple[str, ...] = ()
    max_logprobs: int = 20
