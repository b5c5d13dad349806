"""The bodies of requests.

A field of OpenAI's that this server does not support is accepted with a value that changes nothing,
and refused, with the reason, with any other. An unknown field is refused too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ...runtime.constraints.spec import Constraint, constraint_of, constraint_of_format

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_DRAFT = 4096  # characters
SERVED_LENGTH = 16  # tokens of a draft
MAX_FIELDS = 128  # of an object: none here has so many
_SEED = 2**63


def refuse(reason: str, *neutral: Any) -> AfterValidator:
    """Refuse every value of a field but null and the neutral ones."""

    def check(value: Any) -> Any:
        if value is not None and value not in neutral:
            raise ValueError(reason)
        return value

    return AfterValidator(check)


_PENALTY = refuse("a penalty is part of the formula: … | repetition_penalty(1.2)", 0)
_NEUTRAL: tuple[Any, ...] = ("auto", "default", "medium", "none", 0, False, {}, [])
_IGNORED = refuse("this server does not do it; leave it out", *_NEUTRAL)
_NO_TOOLS = refuse("tools are not called here; leave it out", [], {}, "none", "auto")
_TEXT_ONLY = refuse("messages are text; leave it out", [])
_PART = "it is part of the formula"
_NO_SPECIAL = "answers are written without special tokens; leave it out"
MAX_LOGPROBS = 20  # of each token, as for OpenAI's chats
_Top = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]


def _guided(key: str) -> AfterValidator:
    """Refuse a field that vLLM had before ``structured_outputs``."""
    return refuse(f'vLLM has it no more, either: write structured_outputs: {{"{key}": …}}')


def _few_fields(value: Any) -> Any:
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

    _fields = model_validator(mode="before")(_few_fields)


class StreamOptions(Body):
    """``include_usage`` adds a last chunk with the counts of tokens."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, refuse("chunks are not padded; leave it out", False)] = None


T = TypeVar("T")
NonEmpty = Annotated[list[T], Field(min_length=1, fail_fast=True)]
Text = Annotated[str, Field(min_length=1)]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Ids = NonEmpty[Annotated[int, Field(ge=0)]]


class GenerationRequest(Body):
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
        return_token_ids: each choice has its ``token_ids``, as in vLLM.
        user, safety_identifier, prompt_cache_key: accepted and not read.
    """

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
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
    params: Annotated[dict[str, float], BeforeValidator(_few_fields)] | None = None
    return_token_ids: bool | None = None
    structured_outputs: Annotated[Any, AfterValidator(constraint_of)] = None
    response_format: Annotated[Any, AfterValidator(constraint_of_format)] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    frequency_penalty: Annotated[Any, _PENALTY] = None
    presence_penalty: Annotated[Any, _PENALTY] = None
    repetition_penalty: Annotated[Any, refuse(f"{_PART}: … | repetition_penalty(x)", 1)] = None
    top_k: Annotated[Any, refuse(f"{_PART}: … | top_k(k)", 0, -1)] = None
    min_p: Annotated[Any, refuse(f"{_PART}: … | min_p(p)", 0)] = None
    logit_bias: Annotated[Any, refuse("scores are what the formula says; leave it out", {})] = None
    guided_json: Annotated[Any, _guided("json")] = None
    guided_regex: Annotated[Any, _guided("regex")] = None
    guided_choice: Annotated[Any, _guided("choice")] = None
    guided_grammar: Annotated[Any, _guided("grammar")] = None
    guided_whitespace_pattern: Annotated[Any, _guided("whitespace_pattern")] = None
    guided_decoding_backend: Annotated[Any, _IGNORED] = None
    service_tier: Annotated[Any, _IGNORED] = None
    metadata: Annotated[Any, _IGNORED] = None
    store: Annotated[Any, _IGNORED] = None
    min_tokens: Annotated[Any, _IGNORED] = None
    ignore_eos: Annotated[Any, _IGNORED] = None
    stop_token_ids: Annotated[Any, _IGNORED] = None
    echo: Annotated[Any, refuse("the answer comes without its prompt; leave it out", False)] = None
    skip_special_tokens: Annotated[Any, refuse(_NO_SPECIAL, True)] = None
    spaces_between_special_tokens: Annotated[Any, refuse(_NO_SPECIAL, True)] = None
    include_stop_str_in_output: Annotated[
        Any, refuse("a stop string is no part of the answer; leave it out", False)
    ] = None
    length_penalty: Annotated[Any, refuse(f"{_PART}: … | blockwise(r, beams=…)", 1)] = None
    use_beam_search: Annotated[Any, refuse(f"{_PART}: … | blockwise(r, beams=…)", False)] = None
    priority: Annotated[Any, refuse("requests are decoded in their order; leave it out", 0)] = None

    @model_validator(mode="after")
    def _check_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
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
    def best(self) -> int:
        """How many of the most likely tokens each choice has for every token."""
        return self.logprobs or 0


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Text | _Ids | NonEmpty[Text] | NonEmpty[_Ids]
    logprobs: _Top | None = None
    best_of: int | None = None
    suffix: Annotated[Any, refuse("nothing is written before a suffix; leave it out", "")] = None

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is part of the formula: … | best_of(reward, n=4)")
        return self

    @property
    def prompts(self) -> list[Any]:
        """Each prompt: a text, or token ids."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if several else [self.prompt]


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ImageUrl(Body):
    """Where an image is: a data URL, or an address that the server's owner allows."""

    url: Annotated[str, Field(pattern=r"^(data:|https?://)")]
    detail: Annotated[Any, _IGNORED] = None


class ImagePart(Body):
    """A part of a message's content."""

    type: Literal["image_url"]
    image_url: ImageUrl


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Body):
    """One message of a chat; a message that this server has answered is valid unchanged."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: Annotated[Any, refuse("models are not told the names of speakers; leave it out")] = None
    refusal: Annotated[Any, _TEXT_ONLY] = None
    tool_calls: Annotated[Any, _TEXT_ONLY] = None
    function_call: Annotated[Any, _TEXT_ONLY] = None
    audio: Annotated[Any, _TEXT_ONLY] = None
    annotations: Annotated[Any, _TEXT_ONLY] = None

    def plain(self) -> dict[str, Any]:
        """The role, and the content as one text; or as parts, where there are images."""
        content: Any = self.content
        if isinstance(content, str):
            return {"role": self.role, "content": content}
        if any(isinstance(part, ImagePart) for part in content):
            return {"role": self.role, "content": [_plain(part) for part in content]}
        joined = "\n".join(part.text for part in content)  # as vLLM and llama.cpp do
        return {"role": self.role, "content": joined}


class ImageMessage(ChatMessage):
    """One whose content may have images."""

    content: str | Annotated[list[_Part], Field(fail_fast=True)]  # type: ignore[assignment]


def _plain(part: TextPart | ImagePart) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "url": part.image_url.url}


class ChatRequest(GenerationRequest):
    """The body of ``/v1/chat/completions``."""

    messages: NonEmpty[ImageMessage]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: _Top | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Annotated[Any, _NO_TOOLS] = None
    tool_choice: Annotated[Any, _NO_TOOLS] = None
    parallel_tool_calls: Annotated[Any, refuse("tools are not called here", True, False)] = None
    functions: Annotated[Any, _NO_TOOLS] = None
    function_call: Annotated[Any, _NO_TOOLS] = None
    modalities: Annotated[Any, refuse("answers are text; leave it out", ["text"])] = None
    audio: Annotated[Any, refuse("answers are text; leave it out")] = None
    reasoning_effort: Annotated[Any, _IGNORED] = None
    verbosity: Annotated[Any, _IGNORED] = None
    prediction: Annotated[Any, _IGNORED] = None
    web_search_options: Annotated[Any, _IGNORED] = None

    @model_validator(mode="after")
    def _check_ending(self) -> ChatRequest:
        """An assistant's last message is continued, and any other is answered."""
        last = self.messages[-1]
        continues = last.role == "assistant" and bool(last.plain()["content"])
        ends = "the last message is the assistant's, and is continued"
        if not continues:
            ends = "the last message is not the assistant's, and is answered"
        if self.continue_final_message not in (None, continues):
            raise ValueError(f"{ends}; leave continue_final_message out")
        if self.add_generation_prompt not in (None, not continues):
            raise ValueError(f"{ends}; leave add_generation_prompt out")
        return self

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs come with logprobs: true")
        return self

    @property
    def best(self) -> int:
        return self.top_logprobs or 0

    @model_validator(mode="after")
    def _check_max_tokens(self) -> ChatRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self

    @property
    def prompts(self) -> list[Any]:
        """The one prompt: messages."""
        return [[message.plain() for message in self.messages]]


_Chat = Annotated[list[ChatMessage], Field(min_length=2, fail_fast=True)]


class ScoreRequest(Body):
    """The body of ``/v1/score``, as vLLM has it, or chats that end in the answer.

    Attributes:
        model: a reward model of the run file.
        text_1: the prompt of every answer, or one for each.
        text_2: the answers.
        messages: instead of both, a chat or several; the last message of each is the answer.
    """

    model: str
    text_1: Text | NonEmpty[Text] | None = None
    text_2: str | NonEmpty[str] | None = None
    messages: _Chat | NonEmpty[_Chat] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ScoreRequest:
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
        prompts, answers = _listed(self.text_1), _listed(self.text_2)
        return prompts * len(answers) if len(prompts) == 1 else prompts, answers

    @property
    def _chats(self) -> list[list[ChatMessage]]:
        chats: Any = self.messages
        return chats if isinstance(chats[0], list) else [chats]


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/score": ScoreRequest,
}
