"""The bodies of requests, one file for each kind."""

from .chats import ChatRequest
from .completions import CompletionRequest
from .fields import Body
from .generation import MAX_CHOICES, SERVED_LENGTH, GenerationRequest, StreamOptions
from .messages import ChatMessage
from .responses import ResponsesRequest
from .score import ScoreRequest
from .tokens import DetokenizeRequest, TokenizeRequest

BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/score": ScoreRequest,
    "/v1/responses": ResponsesRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}

__all__ = [
    "BODIES", "MAX_CHOICES", "SERVED_LENGTH", "Body", "ChatMessage", "ChatRequest",
    "CompletionRequest", "DetokenizeRequest", "GenerationRequest", "ResponsesRequest",
    "ScoreRequest", "StreamOptions", "TokenizeRequest",
]  # fmt: skip
