"""The process that tries whether a constraint compiles, before the decode process does it.

It may be killed: llguidance's time, memory and stack are not bounded. It holds no model, and
imports neither torch nor transformers. A vocabulary of bytes is enough: what costs is the grammar.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ...errors import DescantError
from ...runtime.constraints.compiled import compile_constraint
from ...runtime.constraints.limits import MEMORY, SECONDS, ConstraintError
from ...runtime.constraints.spec import Constraint

STEPS = 16  # tokens


class ByteTokens:
    """What llguidance's ``TokenizerWrapper`` reads of a tokenizer."""

    def __init__(self) -> None:
        self.bos_token_id, self.eos_token_id, self.special_token_ids = None, 256, [256]
        self.tokens = [*(bytes([byte]) for byte in range(256)), b""]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def run_trials(connection: Connection) -> None:
    """Answer each constraint with None or an error, until the parent ends.

    More than ``SECONDS`` of computing end the process.

    Args:
        connection: to the parent; gets "" first, once llguidance is imported.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    import llguidance

    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(ByteTokens()))
    _bound_memory()
    with suppress(EOFError, OSError):
        connection.send("")
        while True:
            connection.send(_trial(connection.recv(), tokenizer))


def _trial(constraint: Constraint, tokenizer: Any) -> DescantError | None:
    timed = hasattr(signal, "ITIMER_PROF")  # of this process's own time, however busy the machine
    if timed:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        _walk(compile_constraint(constraint, tokenizer), constraint)
    except DescantError as error:
        return error
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _walk(matcher: Any, constraint: Constraint) -> None:
    """Begin an answer: some constraints compile, and are above a limit after their first token."""
    for _ in range(STEPS):
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = mask & -mask  # the lowest
        if (
            matcher.is_stopped()
            or not allowed
            or not matcher.consume_token(allowed.bit_length() - 1)
        ):
            break
    if matcher.is_error():
        problem = f"the {constraint.kind} takes too much work for each token"
        raise ConstraintError(f"{problem}; make it smaller: fewer alternatives and options")


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    most = MEMORY
    with suppress(ValueError, OSError):
        with open("/proc/self/statm") as file:
            most += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
