"""The bodies of ``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM has them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .fields import Body, refuse

Name = Annotated[str, Field(min_length=1, max_length=128)]


class LoadAdapterRequest(Body):
    """Load a LoRA adapter, or a steering vector.

    Attributes:
        lora_name: by which formulas and requests name it.
        lora_path: its folder or file, in a folder that the server's owner allows.
        base_model_name: the declared model that it is on; left out, the only one.
    """

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    base_model_name: Name | None = None
    load_inplace: Annotated[Any, refuse("unload it first, then load it anew", False)] = None


class UnloadAdapterRequest(Body):
    """Unload one that was loaded while the server ran; ``lora_int_id`` is not read."""

    lora_name: Name
    lora_int_id: int | None = None
