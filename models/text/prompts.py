"""Prompts: one prompt rendered for one term, as token ids or as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..checkpoint.spec import ModelSpec
from ..errors import ModelError, first_line, read_by_a_library
from ..images.parts import as_text, images_in, system_content, with_images, without_images
from ..images.processor import PromptProcessor
from ..images.prompt import ImagePrompt
from .chat import SYSTEM, Messages, check_messages, developer_as_system, fills_in, written
from .chat_options import DEFAULT, ChatOptions, as_templates_want, options_of

Prompt: TypeAlias = "str | Messages | Sequence[int]"


class PromptText(str):
    """A text, and whether the tokenizer adds its special tokens to it."""

    special: bool

    def __new__(cls, text: str, special: bool = True) -> PromptText:
        prompt = super().__new__(cls, text)
        prompt.special = special
        return prompt


def is_ids(prompt: Any) -> bool:
    """Whether a prompt is token ids."""
    return isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], int)


def is_messages(prompt: Any) -> bool:
    """Whether a prompt is chat messages."""
    return isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)


def render(
    name: str,
    spec: ModelSpec,
    tokenizer: Any,
    prompt: Prompt,
    system: str | None = None,
    alone: bool = False,
    noimage: bool = False,
    processor: PromptProcessor | None = None,
) -> list[int] | ImagePrompt:
    """The token ids that one term reads before the response.

    Args:
        name, spec: of the model: template, system prompt, prefix.
        tokenizer: or None, where prompts are token ids.
        prompt: text, chat messages, or token ids (which are read as they are).
        system: the system prompt that the formula gives; "" for none.
        alone: nothing but the beginning of a text (``model@none``).
        noimage: without the images (``model@noimage``).
        processor: of the model, which reads images; None where it has no eyes.

    Raises:
        ModelError: an empty prompt, or one that this model has no way to read.
    """
    if not prompt:
        raise ModelError("the prompt is empty", "give it text, messages or token ids")
    if alone:
        return [_bos(name, tokenizer, prompt)]
    options, prompt = options_of(prompt), _seen(name, prompt, noimage, processor)
    if isinstance(prompt, ImagePrompt):
        if noimage or spec.prefix or system is not None:
            problem = f"token ids with images are read as they are, and {name} is to read others"
            raise ModelError(problem, "give the prompt as messages", name)
        return prompt
    if is_ids(prompt):
        return _prefixed(name, spec, tokenizer, prompt, system)  # type: ignore[arg-type]
    if tokenizer is None:
        problem = f"{name} has no tokenizer, so a prompt must be token ids"
        raise ModelError(problem, "or give tokenizer: …", name, "tokenizers")
    text = _text(name, spec, tokenizer, prompt, system, processor, options)
    if processor is not None and (images := images_in(prompt)):
        if isinstance(spec.prefix, list):
            problem = f"{name} has a prefix of token ids, and the prompt has images"
            raise ModelError(problem, "give the prefix as text", name)
        return processor.read(text, images)
    ids = text_ids(tokenizer, text, text.special)
    if isinstance(spec.prefix, list):
        ids = _joined(tokenizer, spec.prefix, ids)
    if not ids:
        raise ModelError(f"the prompt is no token at all for {name}", "", name)
    return ids


def render_text(
    name: str,
    spec: ModelSpec,
    shared: Any,
    own: Any,
    prompt: Prompt,
    system: str | None,
    alone: bool = False,
    noimage: bool = False,
) -> PromptText:
    """The text that a model with a tokenizer of its own reads before the response.

    Args:
        name, spec, prompt, system: as in ``render``.
        shared: the tokenizer of the formula's tokens, which decodes a prompt of token ids.
        own: the model's tokenizer, whose chat template it is.
        alone: nothing but the response (``model@none``).
        noimage: without the images (``model@noimage``).
    """
    if not prompt:
        raise ModelError("the prompt is empty", "give it text, messages or token ids")
    if alone:
        return PromptText("")
    options, prompt = options_of(prompt), _seen(name, prompt, noimage, None)
    if isinstance(spec.prefix, list):
        raise ModelError(f"{name} reads text, and its prefix is token ids", "give it as text", name)
    if is_ids(prompt):
        prompt = PromptText(shared.decode(list(prompt), skip_special_tokens=True))
        return _with_prefix(own, spec, prompt)
    return _text(name, spec, own, prompt, system, options=options)


def _seen(name: str, prompt: Any, noimage: bool, processor: PromptProcessor | None) -> Any:
    """A prompt as a model sees it: with its images, read, or without them."""
    if not is_messages(prompt):
        return prompt
    prompt = without_images(prompt) if noimage else with_images(prompt)
    if processor is None and images_in(prompt):
        raise ModelError(f"{name} has no eyes, and the prompt has images", see_without(name), name)
    return prompt if processor is not None else as_text(prompt)


def see_without(name: str) -> str:
    """What to write where a model has no eyes."""
    return f"write {name}@noimage, which reads the prompt without them"


def _text(
    name: str,
    spec: ModelSpec,
    tokenizer: Any,
    prompt: Any,
    system: str | None,
    processor: PromptProcessor | None = None,
    options: ChatOptions = DEFAULT,
) -> PromptText:
    """A prompt as text, after the model's own prefix if that is text."""
    system = spec.system if system is None else system
    text = _Template(name, spec.template, tokenizer, processor, options).text(prompt, system)
    return _with_prefix(tokenizer, spec, text)


def _with_prefix(tokenizer: Any, spec: ModelSpec, text: PromptText) -> PromptText:
    """A text prefix before a text, or after the BOS that the text begins with."""
    prefix = spec.prefix
    if not isinstance(prefix, str):
        return text
    bos, plain, start = tokenizer.bos_token, str(text), ""
    if bos and prefix.startswith(bos):
        plain = plain.removeprefix(bos)
    elif bos and plain.startswith(bos):
        plain, start = plain.removeprefix(bos), bos
    return PromptText(start + prefix + plain, text.special)


@dataclass(frozen=True)
class _Template:
    """How a model's prompts are written as text."""

    name: str
    template: str | None
    tokenizer: Any
    processor: PromptProcessor | None = None
    options: ChatOptions = DEFAULT

    def text(self, prompt: Any, system: str | None) -> PromptText:
        """The prompt as text."""
        template = self.template
        if not isinstance(prompt, str):
            prompt = as_templates_want(prompt)
            check_messages(self.name, prompt)
        if template is not None and fills_in(template):
            return PromptText(self._in_string(template, prompt, system))
        if isinstance(prompt, str) and template is None:
            return PromptText(f"{system}\n{prompt}" if system else prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        if system is not None:
            messages = [message for message in messages if message["role"] not in SYSTEM]
            said = system_content(system, messages)
            messages = [{"role": "system", "content": said}] * bool(system) + messages
        # As in transformers: a chat template writes every special token, a processor's all but BOS.
        source = self.tokenizer
        if self.processor is not None:
            source = self.processor.template_source(bool(images_in(messages)))
        text = written(self.name, template, self.tokenizer, messages, source, self.options)
        return PromptText(text, special=self.processor is not None)

    def _in_string(self, template: str, prompt: Any, system: str | None) -> str:
        """A template with ``{prompt}`` filled in, and after it the answer so far."""
        if isinstance(prompt, str):
            return self._filled(template, prompt, system or "")
        if images_in(prompt):
            problem = f"the template of {self.name} has no place for images"
            raise self._error(problem, "give a chat template")
        prompt = developer_as_system(as_text(prompt))
        roles = [message["role"] for message in prompt]
        answer = prompt[-1]["content"] if roles[-1] == "assistant" else ""
        before = prompt[:-1] if roles[-1] == "assistant" else prompt
        if [message["role"] for message in before] not in (["user"], ["system", "user"]):
            problem = f"the template of {self.name} takes one user message, and the answer so far"
            problem += f" if there is one, not {', '.join(roles)}"
            raise self._error(problem, "give a chat template")
        if system is None:
            system = before[0]["content"] if len(before) == 2 else ""
        return self._filled(template, before[-1]["content"], system) + answer

    def _filled(self, template: str, prompt: str, system: str) -> str:
        if system and "{system}" not in template:
            problem = f"the template of {self.name} has no place for the system prompt"
            cure = "write {system} where it goes in the template, or give a chat template"
            raise self._error(f"{problem} {system[:40]!r}", cure)
        parts = {"{prompt}": prompt, "{system}": system}
        return re.sub(r"\{prompt\}|\{system\}", lambda match: parts[match[0]], template)

    def _error(self, problem: str, cure: str) -> ModelError:
        return ModelError(problem, cure, self.name, "chat-templates")


def text_ids(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    """A text's ids, after the tokenizer's starting special tokens, without the ending ones.

    Raises:
        ModelError: half a character in the text, or a tokenizer that gives up on it.
    """

    def unreadable(error: BaseException) -> ModelError:
        half = next((char for char in text if "\ud800" <= char <= "\udfff"), None)
        if half is not None:
            return ModelError(f"the prompt holds {half!a}, half of a character", "leave it out")
        source = getattr(tokenizer, "name_or_path", "")
        problem = f"the tokenizer {source} cannot read the prompt: {first_line(error)}"
        return ModelError(problem, "name another with tokenizer: …", topic="tokenizers")

    with read_by_a_library(unreadable):  # such as a pattern of its own that gives up
        plain: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token
    if not special or (bos and text.startswith(bos)):
        return plain
    ids: list[int] = list(tokenizer(text)["input_ids"])
    shifts = range(len(ids) - len(plain) + 1)
    start = next((i for i in shifts if ids[i : i + len(plain)] == plain), 0)
    return ids[: start + len(plain)]


def _prefixed(
    name: str, spec: ModelSpec, tokenizer: Any, ids: Sequence[int], system: str | None
) -> list[int]:
    if system is not None:
        problem = f"token ids are read as they are, so {name} cannot be given another system prompt"
        cure = "give the prompt as text or as messages"
        raise ModelError(problem, cure, name, "negative-prompts")
    prefix = [] if spec.prefix is None else spec.prefix
    if isinstance(prefix, str):
        prefix = text_ids(tokenizer, prefix)
    return _joined(tokenizer, prefix, list(ids))


def _joined(tokenizer: Any, prefix: list[int], ids: list[int]) -> list[int]:
    """Prefix and prompt, with one BOS, before both."""
    if not prefix:
        return ids
    bos = tokenizer.bos_token_id if tokenizer is not None else None
    if bos is None or ids[:1] != [bos]:
        return prefix + ids
    return [bos, *(prefix[1:] if prefix[:1] == [bos] else prefix), *ids[1:]]


def _bos(name: str, tokenizer: Any, prompt: Any) -> int:
    if tokenizer is not None and tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id)
    if tokenizer is None and is_ids(prompt):
        return int(prompt[0])
    problem = f"{name} has no BOS token to begin a text with, so it cannot go without a prompt"
    raise ModelError(problem, 'use a system prompt instead: base@""', name, "negative-prompts")
