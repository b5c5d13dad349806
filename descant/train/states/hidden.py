"""The hidden states of texts: what comes out of decoder layers, at a token or over an answer.

Texts are read as in decoding, without an end of text. Nothing here knows what is learnt from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from ...models.adapters.decoder_layers import decoder_layers, layer_outputs
from ...models.checkpoint.description import Description
from ...models.footprint import execution_device
from ...models.loading.load import load_model
from ..batches import REJECTED, Row, pad
from ..encode import Counts, Encoder
from ..examples import Example
from ..losses import IGNORED
from ..model import described
from ..trainfile import TrainFileError
from .recipe import StatesFile

LENGTH = 1024
Tokens: TypeAlias = Literal["last", "answer"]


class HiddenStates:
    """A base, opened to read the hidden states of texts.

    Args:
        recipe: names the base, and how texts are cut and batched.
        method: the command's, for messages.

    Attributes:
        description: of the base.
        layers: how many decoder layers it has.

    Raises:
        ModelError: no language model, or one whose layers are not known.
        TrainFileError: there are several processes.
    """

    def __init__(self, recipe: StatesFile, method: str) -> None:
        if PartialState().num_processes > 1:
            cure = "start it alone; model.device_map spreads a base over several devices"
            raise TrainFileError(f"descant train {method} is one process: {cure}")
        self.description: Description = described(method, recipe.model, recipe.max_length)
        device = str(PartialState().device)
        self._model: Any = load_model(self.description, recipe.model, None, device)
        self.layers = len(decoder_layers("the model", self._model))
        positions = self.description.positions or LENGTH
        self._encoder = Encoder(
            recipe.model, self.description.tokenizer, self.description.eos,
            recipe.max_length or min(LENGTH, positions), recipe.too_long == "drop",
            self.description.size, ended=False,
        )  # fmt: skip
        self._batch_size = recipe.batch_size

    def encoded(self, example: Example, counts: Counts) -> list[Row]:
        """The texts of an example: two of a pair, one of a text, none where it is too long.

        Raises:
            TrainFileError: a text that this model cannot read, or a response without tokens.
        """
        texts: list[Row] = []
        for row in self._encoder.rows([example], counts):
            for side in ("", REJECTED):
                if side + "labels" in row:
                    texts.append({key: row[side + key] for key in ("input_ids", "labels")})
        if any(all(label == IGNORED for label in text["labels"]) for text in texts):
            raise TrainFileError(f"{example.where}: a response has no tokens")
        return texts

    def of(self, texts: Sequence[Row], layers: Sequence[int], tokens: Tokens) -> Tensor:
        """Read texts, those of like lengths in one forward.

        Args:
            layers: counted from 0.
            tokens: ``last``: the state of a text's last token; ``answer``: the mean over those of
                its labelled tokens.

        Returns:
            ``(layers, texts, hidden)`` float32 on the CPU.

        Raises:
            ModelError: no such layer.
            TrainFileError: numbers that are not finite.
        """
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]["input_ids"]))
        found: Tensor | None = None
        bar = tqdm(total=len(texts), desc="hidden states", leave=False, disable=None)
        with bar, torch.no_grad():
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                states = self._forward([texts[number] for number in batch], layers, tokens)
                if found is None:
                    found = torch.empty(len(layers), len(texts), states.shape[-1])
                found[:, batch] = states
                bar.update(len(batch))
        assert found is not None
        for layer, states in zip(layers, found, strict=True):
            if not states.isfinite().all():
                cure = "give the model another dtype"
                raise TrainFileError(f"hidden states of layer {layer} are not finite: {cure}")
        return found

    def _forward(self, texts: Sequence[Row], layers: Sequence[int], tokens: Tokens) -> Tensor:
        rows = pad(texts, self.description.tokenizer.pad_token_id or 0)
        mask = rows["attention_mask"]
        counted = rows["labels"] != IGNORED
        last = mask.sum(1) - 1
        picked: dict[int, Tensor] = {}

        def take(layer: int, states: Tensor) -> None:
            if tokens == "last":
                picked[layer] = states[torch.arange(len(states)), last.to(states.device)].float()
            else:
                weights = counted.to(states.device).unsqueeze(2)
                sums = torch.where(weights, states.float(), 0.0).sum(1)
                picked[layer] = sums / weights.sum(1)
            picked[layer] = picked[layer].cpu()

        device = execution_device(self._model.get_input_embeddings())
        with layer_outputs("the model", self._model, layers, take):
            self._model.base_model(
                input_ids=rows["input_ids"].to(device),
                attention_mask=mask.to(device),
                use_cache=False,
            )
        return torch.stack([picked[layer] for layer in layers])


def of_examples(
    base: HiddenStates, examples: Iterable[Example], counts: Counts
) -> tuple[list[Row], list[Example]]:
    """The texts of examples, and the examples that they are of; the others are too long.

    Raises:
        TrainFileError: none is left.
    """
    texts: list[Row] = []
    kept: list[Example] = []
    for example in examples:
        if sides := base.encoded(example, counts):
            texts += sides
            kept.append(example)
    if not kept:
        raise TrainFileError(f"no row is left: {counts}")
    return texts, kept
