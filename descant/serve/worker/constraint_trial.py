"""A trial of whether a constraint compiles, in a process that may be killed.

llguidance's time, memory and stack are not bounded. A vocabulary of bytes is enough: what costs is
the grammar.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ...runtime.constraints.compiled import compile_constraint
from ...runtime.constraints.limits import ConstraintError
from ...runtime.constraints.spec import Constraint

STEPS = 16  # tokens


class ByteTokens:
    """What llguidance's ``TokenizerWrapper`` reads of a tokenizer."""

    def __init__(self) -> None:
        self.bos_token_id, self.eos_token_id, self.special_token_ids = None, 256, [256]
        self.tokens = [*(bytes([byte]) for byte in range(256)), b""]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def try_constraint(constraint: Constraint) -> None:
    """Compile a constraint, and begin an answer.

    Raises:
        ConstraintError: it does not compile, or takes too much work.
    """
    _walk(compile_constraint(constraint, _tokenizer()), constraint)


@cache
def _tokenizer() -> Any:
    import llguidance

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(ByteTokens()))


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
