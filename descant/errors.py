"""What descant raises on purpose. Everything else that comes out of it is a bug.

A leaf: it imports nothing, so that every package can raise these.
"""

from __future__ import annotations


class DescantError(Exception):
    """An error whose message is for the user: what is wrong, where, and what to write instead.

    The command line prints it in one line and exits with 2, and the server answers 4xx. Whatever
    else is raised is reported as a bug.
    """


class ArgumentError(DescantError, ValueError):
    """Arguments that have a wrong value, or do not fit together."""


class ArgumentTypeError(DescantError, TypeError):
    """An argument that does not exist, or has another type."""


class StateError(DescantError, RuntimeError):
    """A call that cannot be made now, or in this order."""
