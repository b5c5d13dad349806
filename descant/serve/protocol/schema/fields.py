"""What the fields of all bodies are made of.

A field of OpenAI's that this server does not support is accepted with a value that changes nothing,
and refused, with the reason, with any other. An unknown field is refused too.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

IGNORED_FIELDS = "x-ignored-fields"  # the header that names what was taken and does nothing
MAX_FIELDS = 128  # of an object: none here has so many
T = TypeVar("T")
NonEmpty = Annotated[list[T], Field(min_length=1, fail_fast=True)]
Text = Annotated[str, Field(min_length=1)]
Ids = NonEmpty[Annotated[int, Field(ge=0)]]


def refuse(reason: str, *neutral: Any) -> AfterValidator:
    """Refuse every value of a field but null and the neutral ones."""

    def check(value: Any) -> Any:
        if value is not None and value not in neutral:
            raise ValueError(reason)
        return value

    return AfterValidator(check)


_NEUTRAL: tuple[Any, ...] = ("auto", "default", "medium", "none", 0, False, {}, [])
IGNORED = refuse("this server does not do it; leave it out", *_NEUTRAL)


def few_fields(value: Any) -> Any:
    """Refuse an object of thousands of fields: pydantic would make an error of each."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        raise ValueError(f"{len(value)} fields are too many; at most {MAX_FIELDS} are read")
    return value


class Body(BaseModel):
    """Refuses unknown fields, and converts no values.

    The bound on the length of strings makes pydantic check them: a lone surrogate is refused.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, str_max_length=2**31
    )

    _fields = model_validator(mode="before")(few_fields)


class TakenFields(Body):
    """What clients send for the files of whoever serves them; nothing is kept here."""

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(few_fields)] | None = None
    service_tier: Annotated[Any, IGNORED] = None

    @property
    def headers(self) -> dict[str, str]:
        """The response's: names the fields that ask for something that is not done."""
        names = [name for name in TakenFields.model_fields if getattr(self, name)]
        named = ", ".join(sorted({*names} - {"service_tier"}))
        return {IGNORED_FIELDS: named} if named else {}
