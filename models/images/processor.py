"""A model's processor: what makes token ids and model inputs of a text with images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from ..errors import ModelError, first_line
from .prompt import ImagePrompt

_READ = ("input_ids", "attention_mask")  # of what a processor gives: the ids, and no padding


class PromptProcessor:
    """The processor of one model, read when the first image comes.

    Args:
        name: of the model.
        tokenizer: of the model.
        load: reads the processor, or raises ``ModelError``.
        see: is called before each reading of images: has the model read its tower.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        load: Callable[[], Any],
        see: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self._tokenizer, self._load, self._see = name, tokenizer, load, see

    @cached_property
    def processor(self) -> Any:
        """Transformers' own."""
        return self._load()

    def template_source(self, images: bool) -> Any:
        """What has the chat templates: the processor where there are images, and it has one."""
        own = getattr(self._tokenizer, "chat_template", None)
        if own and not images:
            return self._tokenizer
        templates = getattr(self.processor, "chat_template", None)
        return self.processor if templates else self._tokenizer

    def read(self, text: str, images: Sequence[Any]) -> ImagePrompt:
        """Token ids with as many placeholders as each image has, and the model's inputs.

        Args:
            text: written by the chat template.
            images: of PIL's, in the order of their places in it.

        Raises:
            ModelError: the processor cannot read them; says why.
        """
        from torch import Tensor

        self._see()
        options: dict[str, Any] = {"return_tensors": "pt"}
        bos = getattr(self._tokenizer, "bos_token", None)
        if bos and text.startswith(bos):
            options["add_special_tokens"] = False
        processor = self.processor
        try:
            out = processor(text=[text], images=[list(images)], **options)
            inputs = {name: value for name, value in out.items() if name not in _READ}
            ids = out["input_ids"][0].tolist()
        except Exception as error:  # processors raise any
            problem = f"the processor of {self.name} cannot read the prompt: {first_line(error)}"
            cure = "its text may hold the mark of an image itself"
            raise ModelError(problem, cure, self.name) from error
        wrong = [name for name, value in inputs.items() if not isinstance(value, Tensor)]
        if wrong:
            problem = f"the processor of {self.name} gives {wrong[0]} of several sizes"
            raise ModelError(problem, "give images of one size", self.name)
        mark = getattr(processor, "image_token_id", None)
        if mark is not None and ids[-1:] == [mark]:
            problem = f"the prompt of {self.name} ends with an image"
            raise ModelError(problem, "write text after it", self.name)
        return ImagePrompt(ids, inputs)
