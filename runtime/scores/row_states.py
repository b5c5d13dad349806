"""The states of a row that stages and operators keep, by its texts.

What a state is after a text depends on nothing but the request and that text, so it is kept by the
text: a row that is copied, rewritten, drafted or begun again finds the state of what it has read,
whoever came to it, and no row meets another's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, TypeAlias

Text: TypeAlias = tuple[int, ...]
States: TypeAlias = "dict[Hashable, dict[int, dict[Text, Any]]]"

_REACH = 4  # texts back that a row may begin again from: a step that failed, and one on its way


class RowStates(NamedTuple):
    """The states of a row, by the texts that its request has come to.

    Attributes:
        states: per stage or operator, by the tokens drawn and by the text, the state after it.
        drawn: how many tokens the row has drawn.
        goes_back: whether it may go on from a text long before this one.
    """

    states: States
    drawn: int
    goes_back: bool

    def before(self, owner: Hashable, text: Text) -> Text | None:
        """The text whose state is that before this one, at most a token ago; None without any."""
        known = self.at(owner, self.drawn - 1)
        beginnings = (each for each in known if text[: len(each)] == each)
        return max(beginnings, key=len, default=None)

    def at(self, owner: Hashable, drawn: int) -> dict[Text, Any]:
        """The states after so many drawn tokens, by their texts."""
        return self.states.get(owner, {}).get(drawn, {})

    def keep(self, owner: Hashable, text: Text, state: Any) -> None:
        """Keep the state after a text, and forget what the row does not go back to."""
        levels = self.states.setdefault(owner, {})
        levels.setdefault(self.drawn, {})[text] = state
        if not self.goes_back:
            for drawn in [each for each in levels if each < self.drawn - _REACH]:
                del levels[drawn]
