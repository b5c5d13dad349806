"""What scores a whole text: its declaration, its weights, and its adapter if it is one.

What it says of a text is its scorer's. Nothing is read from a checkpoint but its configuration and
tokenizer until the weights are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models import ModelError, ModelSpec
from ..models.checkpoint.adapter import adapter_folder
from ..models.checkpoint.description import SCORES, Description, describe
from ..models.lanes.lora import Adapters
from ..models.loading.load import load_model


@dataclass(frozen=True)
class Declared:
    """A declared model that is to score.

    Attributes:
        name: as declared.
        own: its spec.
        spec: that of its weights: its own, or its base's where it is an adapter.
        card: what its checkpoint says of itself.
        dtype: of weights whose spec names none.
        device: of weights whose spec names none.
    """

    name: str
    own: ModelSpec
    spec: ModelSpec
    description: Description
    dtype: str | None
    device: str

    @property
    def reads(self) -> ModelSpec:
        """The spec by which it reads prompts: an adapter may have words of its own."""
        words = ("template", "system", "prefix")
        said = {key: value for key, value in self.own if value is not None and key in words}
        return self.spec.model_copy(update=said)

    def weights(self, loaded: dict[tuple[Any, ...], Any]) -> Any:
        """The model, read if it is not among those in memory, by ``Description.weights``."""
        if self.description.weights not in loaded:
            loaded[self.description.weights] = load_model(
                self.description, self.spec, self.dtype, self.device
            )
        return loaded[self.description.weights]

    def adapter(self, adapters: Adapters) -> int:
        """The number of its adapter on the model; 0 where it is none."""
        if self.own.adapter is None:
            return 0
        return adapters.add(self.name, adapter_folder(self.own.adapter, self.own.revision))


def declared(name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str) -> Declared:
    """A declared model by its name.

    Raises:
        ModelError: an adapter on nothing, split layers, or a checkpoint that cannot be read.
    """
    own = specs[name]
    home = own.on or name
    if home not in specs or specs[home].on is not None:
        raise ModelError(f"the adapter {name} is on {home}, which is not declared", "", name)
    spec = specs[home]
    if spec.tp_plan is not None:
        problem = f"the layers of {home} are split over processes, and each scores by itself"
        raise ModelError(problem, "declare the model again without tp_plan", name)
    return Declared(name, own, spec, describe(home, spec, dtype, device), dtype, device)


def language_model(
    name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str
) -> Declared:
    """A declared language model; arguments and errors as ``declared``'s.

    Raises:
        ModelError: it is none.
    """
    said = declared(name, specs, dtype, device)
    if said.description.kind != SCORES:
        raise ModelError(f"{name} is no language model, and likelihood is what one says", "", name)
    return said
