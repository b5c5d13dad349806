"""Chat templates: which one a model's messages go through, and messages written by it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias

from ..checkpoint.spec import ModelSpec
from ..errors import ModelError, first_line
from ..images.parts import text_of
from .chat_options import DEFAULT, ChatOptions
from .templates import rendered

_log = logging.getLogger("descant")
Messages: TypeAlias = Sequence[Mapping[str, Any]]  # contents are text, or lists of parts
CHAT = "chat"  # as a template: the tokenizer's own, and a text is one user message
LONGEST = 1 << 19  # characters of a template, which are parsed in a second
SYSTEM = ("system", "developer")  # the roles that a system prompt stands in for


def fills_in(template: str | None) -> bool:
    """Whether a template is a string with ``{prompt}``."""
    return template is not None and "{prompt}" in template and "{{" not in template


def chat_template(name: str, template: str | None, tokenizer: Any) -> str:
    """The text of the chat template by which a model reads messages.

    Args:
        name: of the model, for messages.
        template: as declared, but no string with ``{prompt}``.
        tokenizer: of the model.

    Raises:
        ModelError: there is no such template.
    """
    if template is not None and ("{{" in template or "{%" in template):
        return _of_a_size(name, template)
    known = tokenizer.chat_template
    named = known if isinstance(known, dict) else {"default": known} if known else {}
    if template in named and isinstance(known, dict):
        return _of_a_size(name, str(named[template]))
    if template not in (None, CHAT):
        problem = f"the template of {name} is neither a chat template nor has it a "
        problem += f"{{prompt}}, and the tokenizer has no chat template named {template[:40]!r}"
        names = [*named] if isinstance(known, dict) else [CHAT] * bool(named)
        cure = f"it has {', '.join(names)}" if names else "write {prompt} where the prompt goes"
        raise _error(name, problem, cure)
    if "default" in named:
        return _of_a_size(name, str(named["default"]))
    if named:
        problem = f"the tokenizer of {name} has several chat templates, and none is its default"
        raise _error(name, problem, f"name one, template: …; it has {', '.join(named)}")
    cure = "give template: … with one, or with {prompt} where the prompt goes"
    if template == CHAT:
        raise _error(name, f"{name} says template: chat, and its tokenizer has none", cure)
    problem = f"{name} has no chat template, and the prompt is chat messages"
    raise _error(name, problem, f"{cure}; or give text")


def _of_a_size(name: str, template: str) -> str:
    """A template that is not too long to be parsed at once."""
    if len(template) > LONGEST:
        problem = f"the chat template of {name} has {len(template)} characters"
        raise _error(name, problem, f"it may have {LONGEST}; give template: … with another")
    return template


def check_template(name: str, spec: ModelSpec, tokenizer: Any) -> None:
    """Check that a declared template is one, before there is a prompt.

    Raises:
        ModelError: it names a chat template that the tokenizer has not.
    """
    if tokenizer is not None and spec.template is not None and not fills_in(spec.template):
        chat_template(name, spec.template, tokenizer)


def reads_raw_text(spec: ModelSpec, tokenizer: Any) -> bool:
    """Whether a text prompt goes past the chat template that the tokenizer has."""
    return spec.template is None and bool(getattr(tokenizer, "chat_template", None))


@dataclass(frozen=True)
class RawTextLog:
    """Warns of text that models read raw, once for each model; decoders of one run share it."""

    named: set[str] = field(default_factory=set)

    def warn(self, names: Iterable[str], prompts: Iterable[Any]) -> None:
        """Warn if one of the prompts is text.

        Args:
            names: of the models that ``reads_raw_text`` holds for.
            prompts: to be answered, or to be scored with their answers.
        """
        new = [name for name in names if name not in self.named]
        if new and any(isinstance(prompt, str) for prompt in prompts):
            self.named.update(new)
            _log.warning(
                "%s: text is read as it is, without the chat template. A base model wants that; a "
                "model trained on chats wants messages, or template: chat in its spec. template: "
                '"{prompt}" says that raw text is meant', ", ".join(new),
            )  # fmt: skip


def written(
    name: str,
    template: str | None,
    tokenizer: Any,
    messages: Messages,
    templates: Any = None,
    options: ChatOptions = DEFAULT,
) -> str:
    """Messages in a model's chat template, up to where the answer begins or continues.

    ``developer`` messages are ``system`` ones where the template knows no ``developer``.

    Args:
        name: of the model, for messages.
        template: as declared.
        templates: what has the chat templates, where it is not the tokenizer.
        options: how it is rendered.

    Raises:
        ModelError: there is no such template, or it refuses these messages, or drops a developer's.
    """
    source = chat_template(name, template, tokenizer if templates is None else templates)
    if "developer" not in source:
        messages = developer_as_system(messages)
    if messages[-1:] == [{"role": "assistant", "content": ""}]:
        messages = messages[:-1]
    try:
        ending = options.ending(messages)
        text = rendered(tokenizer, [*messages], source, **ending, **options.variables())
    except Exception as error:  # jinja has its own exceptions, and templates raise any
        cure = "give template: … with a chat template, or a prompt that is text"
        if any(message["role"] == "system" for message in messages):
            cure = "its template may take no system prompt: write it into the user's message, "
            cure += "or give template: … with {system} and {prompt} in it"
        problem = f"{name} cannot render these messages{_file(tokenizer, source)}: "
        problem += first_line(error)
        raise _error(name, problem, cure) from error
    for message in messages:
        said = text_of(message["content"])
        if message["role"] == "developer" and said.strip() not in text:
            problem = f"the chat template of {name} leaves out a developer's message"
            cure = "write it into the system message"
            raise _error(name, f"{problem}: {said[:40]!r}", cure)
    return text


def _file(tokenizer: Any, template: str) -> str:
    """Where a chat template is, if it is its tokenizer's."""
    known = getattr(tokenizer, "chat_template", None)
    if template not in (known.values() if isinstance(known, dict) else [known]):
        return ""
    return f" by the chat template of {getattr(tokenizer, 'name_or_path', '') or 'its tokenizer'}"


def developer_as_system(messages: Messages) -> Messages:
    """Messages whose ``developer`` ones are ``system``, with its neighbours in one message.

    >>> rules, more = {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}
    >>> developer_as_system([rules, more])
    [{'role': 'system', 'content': 'a\\n\\nb'}]
    """
    read: list[Mapping[str, Any]] = []
    for system, run in groupby(messages, lambda message: message["role"] in SYSTEM):
        group = [*run]
        if system and any(message["role"] == "developer" for message in group):
            content = "\n\n".join(text_of(message["content"]) for message in group)
            group = [{**group[0], "role": "system", "content": content}]
        read += group
    return read


def check_messages(name: str, messages: Messages) -> None:
    """Check that every message has a role that is text, and a content, text or parts.

    Raises:
        ModelError: names the first that has not.
    """
    for number, message in enumerate(messages):
        fields = message if isinstance(message, Mapping) else {}
        missing = [key for key in ("role", "content") if not isinstance(fields.get(key), str)]
        if isinstance(fields.get("content"), list):
            missing.remove("content")  # of which ``parts`` knows more
        if missing:
            problem = f"message {number} of the prompt has no {' and no '.join(missing)}"
            cure = 'a message is {"role": "user", "content": "…"}'
            raise ModelError(f"{problem} that is text", cure, name)


def _error(name: str, problem: str, cure: str) -> ModelError:
    return ModelError(problem, cure, name, "chat-templates")
