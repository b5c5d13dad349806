"""The fields that say how tokens are drawn and what ends an answer, as OpenAI and vLLM do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from .fields import Body

MAX_BIASES = 300  # tokens, as in OpenAI's API
MAX_STOP_IDS = 128
MAX_BREAKERS = 64
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Breaker = Annotated[str, Field(min_length=1, max_length=64)]
_Id = Annotated[int, Field(ge=0)]


def _few_biases(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise ValueError(f"{len(value)} tokens are too many; at most {MAX_BIASES} have a bias")
    return value


class SamplingFields(Body):
    """The arguments of these names of ``Decoder.generate``.

    Attributes:
        logit_bias: by token id, which JSON writes as text.
    """

    top_k: Annotated[int, Field(ge=-1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    epsilon_cutoff: _Share | None = None
    eta_cutoff: _Share | None = None
    top_n_sigma: float | None = None
    xtc_probability: _Share | None = None
    xtc_threshold: _Share | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=1)] | None = None
    dry_sequence_breakers: (
        Annotated[list[_Breaker], Field(max_length=MAX_BREAKERS, fail_fast=True)] | None
    ) = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern="^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            BeforeValidator(_few_biases),
        ]
        | None
    ) = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[_Id], Field(max_length=MAX_STOP_IDS, fail_fast=True)] | None = (
        None
    )
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None


SAMPLING = tuple(SamplingFields.model_fields)
