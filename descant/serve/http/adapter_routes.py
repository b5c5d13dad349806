"""Routes that load and unload adapters, as vLLM has them."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from ..frontend.server import Server
from ..protocol.schema import LoadAdapterRequest, UnloadAdapterRequest


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/load_lora_adapter")
    async def load(body: LoadAdapterRequest) -> PlainTextResponse:
        await server.adapters.load(body.lora_name, body.lora_path, body.base_model_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @routes.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadAdapterRequest) -> PlainTextResponse:
        await server.adapters.unload(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return routes
