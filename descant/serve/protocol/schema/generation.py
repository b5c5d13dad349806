"""The fields of both kinds of completion."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ....runtime.constraints.spec import Constraint, constraint_of, constraint_of_format
from .fields import IGNORED, Body, TakenFields, few_fields, refuse
from .prompts import PromptFields
from .sampling import SamplingFields

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_DRAFT = 4096  # characters
SERVED_LENGTH = 16  # tokens of a draft
_SEED = 2**63
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_PART = "it is part of the formula"


def _guided(key: str) -> AfterValidator:
    """Refuse a field that vLLM had before ``structured_outputs``."""
    return refuse(f'vLLM has it no more, either: write structured_outputs: {{"{key}": …}}')


class StreamOptions(Body):
    """``include_usage`` adds a last chunk with the counts of tokens.

    With ``continuous_usage_stats``, every chunk has those so far.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Annotated[Any, refuse("chunks are not padded; leave it out", False)] = None


class GenerationRequest(PromptFields, SamplingFields, TakenFields):
    """The fields of both kinds of completion.

    Attributes:
        model: a formula's name, or a formula where the server allows them.
        params: values of the formula's parameters.
        logprobs_mode: of what log-probabilities are, as vLLM names them.
        sample_components: whether each step draws one component of a mixture, and runs that alone.
        draft: who proposes tokens: a formula over the declared models, ``prompt`` or ``auto``; null
            where nobody does.
        draft_length: how many at once, at most; or ``adaptive``.
        structured_outputs: what the answer is, in vLLM's form; response_format, in OpenAI's.
    """

    model: str
    max_tokens: int | None = Field(default=None, ge=0)
    max_completion_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=100)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-_SEED, lt=_SEED)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    logprobs: int | None = None
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] | None = None
    sample_components: bool | None = None
    draft: Annotated[str, Field(max_length=MAX_DRAFT)] | None = None
    draft_length: Annotated[int, Field(ge=1, le=SERVED_LENGTH)] | Literal["adaptive"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    params: Annotated[dict[str, float], BeforeValidator(few_fields)] | None = None
    structured_outputs: Annotated[Any, AfterValidator(constraint_of)] = None
    response_format: Annotated[Any, AfterValidator(constraint_of_format)] = None

    guided_json: Annotated[Any, _guided("json")] = None
    guided_regex: Annotated[Any, _guided("regex")] = None
    guided_choice: Annotated[Any, _guided("choice")] = None
    guided_grammar: Annotated[Any, _guided("grammar")] = None
    guided_whitespace_pattern: Annotated[Any, _guided("whitespace_pattern")] = None
    guided_decoding_backend: Annotated[Any, IGNORED] = None
    spaces_between_special_tokens: Annotated[
        Any, refuse("none are written between special tokens; leave it out", True, False)
    ] = None
    length_penalty: Annotated[Any, refuse(f"{_PART}: … | blockwise(r, beams=…)", 1)] = None
    use_beam_search: Annotated[Any, refuse(f"{_PART}: … | blockwise(r, beams=…)", False)] = None
    priority: Annotated[Any, refuse("requests are decoded in their order; leave it out", 0)] = None

    @model_validator(mode="after")
    def _check_max_tokens(self) -> GenerationRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        self.max_tokens = next(iter(limits), None)
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise ValueError(f"min_tokens is above max_tokens, {self.max_tokens}")
        return self

    @model_validator(mode="after")
    def _check_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs are not for stream: true")
        return self

    @model_validator(mode="after")
    def _check_constraint(self) -> GenerationRequest:
        if self.structured_outputs is not None and self.response_format is not None:
            raise ValueError("response_format and structured_outputs are given; leave one out")
        return self

    @property
    def constraint(self) -> Constraint | None:
        """What the answer is."""
        own: Constraint | None = self.structured_outputs or self.response_format
        return own

    @property
    def with_logprobs(self) -> bool:
        """Whether choices have the log-probabilities of their tokens."""
        return self.logprobs is not None and self.logprobs is not False  # 0 asks for them

    @property
    def has_no_answer(self) -> bool:
        """Whether the prompt is all that is asked for."""
        return self.max_tokens == 0

    @property
    def best(self) -> int:
        """How many of the most likely tokens each choice has for every token."""
        return self.logprobs or 0
