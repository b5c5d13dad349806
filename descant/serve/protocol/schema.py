"""The bodies of requests: what they may hold, and what is refused.

A field of OpenAI's that this server does not do is taken where its value asks for nothing, and
refused, with the reason, where it asks for something. A field that nobody knows is refused too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MOST_STOPS = 16
MOST_CHOICES = 128
MOST_FIELDS = 128  # of an object: none here has so many
_SEED = 2**63


def off(why: str, *neutral: Any) -> AfterValidator:
    """A field that may only say what is the case without it: nothing, or a neutral value."""

    def check(value: Any) -> Any:
        if value is not None and value not in neutral:
            raise ValueError(why)
        return value

    return AfterValidator(check)


_PENALTY = off("a penalty is part of the formula: … | repetition_penalty(1.2)", 0)
_NOTHING: tuple[Any, ...] = ("auto", "default", "medium", "none", 0, False, {}, [])
_UNHEARD = off("this server does not do it; leave it out", *_NOTHING)
_NO_TOOLS = off("tools are not called here; leave it out", [], {}, "none", "auto")
_TEXT_ALONE = off("messages are text; leave it out", [])
_DRAWN = "only the drawn token's own log-probability is known"


def _few(said: Any) -> Any:
    """What is said, where it is no object of thousands of fields: each would be an error."""
    if isinstance(said, dict) and len(said) > MOST_FIELDS:
        raise ValueError(f"{len(said)} fields are too many; at most {MOST_FIELDS} are read")
    return said


class Body(BaseModel):
    """Fields that are not known are refused, and values are not converted.

    A bound on its length has every text looked at: half a character is none.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, str_max_length=2**31
    )

    _fields = model_validator(mode="before")(_few)


class StreamOptions(Body):
    """``include_usage`` asks for a last chunk with the counts of tokens."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, off("chunks are not padded; leave it out", False)] = None


Text = Annotated[str, StringConstraints(min_length=1)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
_Params = Annotated[dict[str, float], BeforeValidator(_few)]


class Sampling(Body):
    """What both kinds of completion take.

    Attributes:
        model: a formula's name, or a formula where the server allows them.
        params: values of the formula's parameters.
        return_token_ids: each choice with its ``token_ids``, as vLLM names it.
        user, safety_identifier, prompt_cache_key: tell users and prompts apart for others; nothing
            here depends on them.
    """

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(default=None, ge=-_SEED, lt=_SEED)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    params: _Params | None = None
    return_token_ids: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    frequency_penalty: Annotated[Any, _PENALTY] = None
    presence_penalty: Annotated[Any, _PENALTY] = None
    repetition_penalty: Annotated[
        Any, off("it is part of the formula: … | repetition_penalty(x)", 1)
    ] = None
    top_k: Annotated[Any, off("it is part of the formula: … | top_k(k)", 0, -1)] = None
    min_p: Annotated[Any, off("it is part of the formula: … | min_p(p)", 0)] = None
    logit_bias: Annotated[Any, off("scores are what the formula says; leave it out", {})] = None
    service_tier: Annotated[Any, _UNHEARD] = None
    metadata: Annotated[Any, _UNHEARD] = None
    store: Annotated[Any, _UNHEARD] = None
    min_tokens: Annotated[Any, _UNHEARD] = None
    ignore_eos: Annotated[Any, _UNHEARD] = None
    stop_token_ids: Annotated[Any, _UNHEARD] = None

    @model_validator(mode="after")
    def _streamed(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self


class Completion(Sampling):
    """The body of ``/v1/completions``."""

    prompt: (
        Text
        | _Ids
        | Annotated[list[Text], Field(min_length=1, fail_fast=True)]
        | Annotated[list[_Ids], Field(min_length=1, fail_fast=True)]
    )
    logprobs: Annotated[int | None, off(f"{_DRAWN}: logprobs: 0 asks for it", 0)] = None
    echo: Annotated[Any, off("the answer comes without its prompt; leave it out", False)] = None
    best_of: int | None = None
    suffix: Annotated[Any, off("nothing is written before a suffix; leave it out", "")] = None

    @model_validator(mode="after")
    def _best(self) -> Completion:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is part of the formula: … | best_of(reward, n=4)")
        return self

    @property
    def prompts(self) -> list[Any]:
        """Each prompt: a text, or token ids."""
        said = self.prompt
        several = isinstance(said, list) and not isinstance(said[0], int)
        return list(said) if several else [said]

    @property
    def limit(self) -> int | None:
        """New tokens of one row."""
        return self.max_tokens

    @property
    def with_logprobs(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return self.logprobs is not None


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a chat; an answer of this server is one as it came."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: Annotated[Any, off("models are not told the names of speakers; leave it out")] = None
    refusal: Annotated[Any, _TEXT_ALONE] = None
    tool_calls: Annotated[Any, _TEXT_ALONE] = None
    function_call: Annotated[Any, _TEXT_ALONE] = None
    audio: Annotated[Any, _TEXT_ALONE] = None
    annotations: Annotated[Any, _TEXT_ALONE] = None

    def plain(self) -> dict[str, str]:
        """As models read it: the parts of a text are one."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class Chat(Sampling):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Annotated[Any, off(f"{_DRAWN}; leave it out", 0)] = None
    tools: Annotated[Any, _NO_TOOLS] = None
    tool_choice: Annotated[Any, _NO_TOOLS] = None
    parallel_tool_calls: Annotated[Any, off("tools are not called here", True, False)] = None
    functions: Annotated[Any, _NO_TOOLS] = None
    function_call: Annotated[Any, _NO_TOOLS] = None
    response_format: Annotated[
        Any, off("answers are text, and nothing constrains it; leave it out", {"type": "text"})
    ] = None
    modalities: Annotated[Any, off("answers are text; leave it out", ["text"])] = None
    audio: Annotated[Any, off("answers are text; leave it out")] = None
    reasoning_effort: Annotated[Any, _UNHEARD] = None
    verbosity: Annotated[Any, _UNHEARD] = None
    prediction: Annotated[Any, _UNHEARD] = None
    web_search_options: Annotated[Any, _UNHEARD] = None

    @model_validator(mode="after")
    def _one_limit(self) -> Chat:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self

    @property
    def prompts(self) -> list[Any]:
        """The one prompt: messages."""
        return [[message.plain() for message in self.messages]]

    @property
    def limit(self) -> int | None:
        """New tokens of one row."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def with_logprobs(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return bool(self.logprobs)


_Chat = Annotated[list[Message], Field(min_length=2, fail_fast=True)]


class Score(Body):
    """The body of ``/v1/score``, as vLLM has it, or chats that end in the answer.

    Attributes:
        model: a reward model of the run file.
        text_1: the prompt of every answer, or one for each.
        text_2: the answers.
        messages: instead of texts, a chat or several; the last message of each is the answer.
    """

    model: str
    text_1: Text | Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = None
    text_2: str | Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = None
    messages: _Chat | Annotated[list[_Chat], Field(min_length=1, fail_fast=True)] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Score:
        texts = (self.text_1 is None, self.text_2 is None)
        if texts != ((self.messages is not None),) * 2:
            raise ValueError("give text_1 and text_2, or messages")
        prompts, answers = self.pairs
        if len(prompts) != len(answers):
            raise ValueError(
                f"there are {len(prompts)} prompts in text_1 and {len(answers)} answers in text_2; "
                "give one prompt, or as many"
            )
        if self.messages is not None and any(chat[-1].role != "assistant" for chat in self._chats):
            raise ValueError("the last message of a chat that is scored is the assistant's")
        return self

    @property
    def pairs(self) -> tuple[list[Any], list[str]]:
        """Prompts and their answers."""
        if self.messages is not None:
            plain = [[message.plain() for message in chat] for chat in self._chats]
            return [chat[:-1] for chat in plain], [chat[-1]["content"] for chat in plain]
        assert self.text_1 is not None and self.text_2 is not None
        answers = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if isinstance(self.text_1, str):
            return [self.text_1] * len(answers), answers
        if len(self.text_1) == 1:
            return self.text_1 * len(answers), answers
        return [*self.text_1], answers

    @property
    def _chats(self) -> list[list[Message]]:
        chats: Any = self.messages
        return chats if isinstance(chats[0], list) else [chats]
