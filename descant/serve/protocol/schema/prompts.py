"""The fields that say what answers tell of their prompts, and how much of a prompt is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .fields import Body

Top = Annotated[int, Field(ge=0)]  # at most the server's max_logprobs


class PromptFields(Body):
    """As in vLLM.

    Attributes:
        echo: a completion begins with its prompt; a chat's, with the message that it continues.
        prompt_logprobs: say how likely each token of the prompt is, and so many of the best.
        return_token_ids: choices have their ``token_ids``, and their ``prompt_token_ids``.
        return_tokens_as_token_ids: ``logprobs`` name tokens by their ids.
        truncate_prompt_tokens: how many tokens of a prompt are read, at most; -1 for as many as a
            text may have here.
        truncation_side: where a longer one is cut.
    """

    echo: bool | None = None
    prompt_logprobs: Top | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None

    @model_validator(mode="after")
    def _check_truncation(self) -> PromptFields:
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be at least 1, or -1")
        return self

    @property
    def prompts(self) -> list[Any]:
        """Each prompt."""
        raise NotImplementedError

    @property
    def echoed(self) -> list[str | None] | None:
        """Per prompt, what its answers begin with (None: its tokens' text); None for nothing."""
        raise NotImplementedError

    @property
    def prompt_top(self) -> int | None:
        """How many of the best tokens a prompt's have; None where none has log-probabilities."""
        return self.prompt_logprobs
