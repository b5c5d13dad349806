"""The fields that are taken and do nothing; a header of the response names those that were sent."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from .fields import IGNORED, Body, few_fields

IGNORED_FIELDS = "x-ignored-fields"  # the header


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
