"""What a compat module refuses: an error that names it and says what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import DescantError


class Untranslatable(DescantError, NotImplementedError):
    """Something of another repository that no formula does, and what to write instead."""

    def __init__(self, problem: str, cure: str) -> None:
        self.problem, self.cure = problem, cure
        super().__init__(problem, cure)

    def __str__(self) -> str:
        return f"{self.problem}\n{self.cure}"


class Interface:
    """A class of another repository over a formula. What it does not have is refused by name.

    Attributes:
        formula: the descant formula; ``str()`` gives it as well.
        cures: what to write instead, by the attribute that is refused.
    """

    formula: str
    cures: ClassVar[Mapping[str, str]]

    def __str__(self) -> str:
        return self.formula

    def __getattr__(self, name: str) -> Any:
        own = type(self).__name__
        if name in self.cures:
            raise Untranslatable(f"{own}.{name} is not here", self.cures[name])
        raise AttributeError(f"{own} has no attribute {name!r}")
