"""The bodies of requests, one file for each kind."""

from .chats import ChatRequest
from .completions import CompletionRequest
from .fields import Body
from .generation import MAX_CHOICES, SERVED_LENGTH, GenerationRequest
from .messages import ChatMessage
from .score import ScoreRequest

BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/score": ScoreRequest,
}

__all__ = [
    "BODIES", "MAX_CHOICES", "SERVED_LENGTH", "Body", "ChatMessage", "ChatRequest",
    "CompletionRequest", "GenerationRequest", "ScoreRequest",
]  # fmt: skip
