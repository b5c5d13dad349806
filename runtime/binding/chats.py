"""The chat templates of a bound plan: whether they take what a chat asks for."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from ...models import ModelError, is_messages
from ...models.text.chat import CHAT, chat_template, fills_in
from ...models.text.chat_options import DEFAULT, NAMED, check_variables, knows, options_of
from .bound import Bound
from .bound_term import BoundTerm


def template_of(term: BoundTerm) -> str | None:
    """The chat template that a term reads messages by; None where it has none."""
    if term.tokenizer is None or term.term.alone or fills_in(term.spec.template):
        return None
    try:
        source = term.tokenizer if term.processor is None else term.processor.template_source(False)
        return chat_template(term.term.model, term.spec.template, source)
    except ModelError:
        return None


def check_chat(bound: Bound, prompt: Any) -> None:
    """Refuse what a prompt asks of chat templates, and none of the formula's terms has.

    Raises:
        ArgumentError: the prompt goes through no chat template.
        ModelError: no template reads a variable; or tools, that of the first term.
    """
    if (options := options_of(prompt)) == DEFAULT:
        return
    terms = [term for term in (*bound.terms, *bound.draft_terms) if template_of(term) is not None]
    if not is_messages(prompt) and not any(term.spec.template == CHAT for term in terms):
        named = [name for name in NAMED if getattr(options, name) not in (None, {})]
        problem = f"{' and '.join(named)} say how chat messages are written"
        raise ArgumentError(f"{problem}, and this prompt is none")
    check_variables(options, [template_of(term) or "" for term in terms])
    first = bound.terms[bound.text_term]
    if options.tools and not knows(template_of(first) or "", "tools"):
        problem = f"the chat template of {first.term.model} knows no tools"
        cure = "leave them out, or give template: … with one that does"
        raise ModelError(problem, cure, first.term.model)
