"""The bodies of requests, one file for each kind."""

from .adapters import LoadAdapterRequest, UnloadAdapterRequest
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
    "/v1/load_lora_adapter": LoadAdapterRequest,
    "/v1/unload_lora_adapter": UnloadAdapterRequest,
}

__all__ = [
    "BODIES", "MAX_CHOICES", "SERVED_LENGTH", "Body", "ChatMessage", "ChatRequest",
    "CompletionRequest", "DetokenizeRequest", "GenerationRequest", "LoadAdapterRequest",
    "ResponsesRequest", "ScoreRequest", "StreamOptions", "TokenizeRequest", "UnloadAdapterRequest",
]  # fmt: skip
