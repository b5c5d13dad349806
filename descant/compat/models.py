"""The models behind operators: a name for each in the formula, and its declaration.

Operators with one model and one template share a name, under one system prompt or several. Nothing
is loaded here but adapters' configurations, and a classifier's where its classes must be counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import ArgumentError
from ..formula import STAGES
from ..formula.names import is_word
from ..lang import Expression, model
from .refused import Untranslatable

Template = Callable[[str, str], str]
PROMPT = "\x02prompt\x03"  # stand for the texts when a template function is tried out
SYSTEM = "\x02system\x03"
LONGEST = 80  # characters of a system prompt that is shown in a formula
DEFAULT = "base"  # the name of a model without a path


class ModelOperator(Protocol):
    """An operator with a model of its own: ``PromptedLLM`` or ``Classifier``."""

    system_prompt: str
    model: Any
    dtype: Any
    tokenizer: Any
    model_name: str | None

    @property
    def prompt_template(self) -> Template:
        """Makes one text of the system prompt and the input."""

    @property
    def label(self) -> tuple[int, bool] | None:
        """A classifier's class, and whether the other one of two is meant."""


@dataclass(frozen=True)
class Rendering:
    """How an operator's text is made: a template of ours, and what follows @ in the formula.

    Attributes:
        template: with ``{prompt}`` and perhaps ``{system}``; None is the prompt alone.
        system: the system prompt in the formula.
        empty: whether no prompt is read at all.
        opening: the text before the prompt.
    """

    template: str | None
    system: str | None = None
    empty: bool = False
    opening: str = ""

    def text(self, prompt: str) -> str:
        """The text of a prompt."""
        if self.empty:
            return ""
        parts = {"{prompt}": prompt, "{system}": self.system or ""}
        template = self.template or "{prompt}"
        return re.sub(r"\{prompt\}|\{system\}", lambda match: parts[match[0]], template)


def rendering(template: Template, system: str) -> Rendering:
    """What a function that makes texts does, as a template.

    Raises:
        Untranslatable: it does more than insert the two texts.
    """
    text, general = template(system, PROMPT), template(SYSTEM, PROMPT)
    if text == "":
        return Rendering(None, empty=True)
    if PROMPT not in text:
        problem = f"a prompt_template leaves the input out, and makes {text[:40]!r}"
        cure = 'let it use input_string, or be "" altogether, which is model@none'
        raise Untranslatable(problem, cure)
    for made in (text, general):
        fixed = re.sub(f"{PROMPT}|{SYSTEM}", "", made)
        if any(part in fixed for part in ("{prompt}", "{system}", "{{")):
            cure = "a descant template cannot hold {{, {prompt} or {system} as text"
            raise Untranslatable(f"a prompt_template writes braces: {fixed[:40]!r}", cure)
    opening = text.partition(PROMPT)[0]
    plain = system.isprintable() and not set('"\\') & set(system)
    shows = plain and len(system) <= LONGEST and not system.startswith("<")  # a BOS, perhaps
    if shows and SYSTEM in general and general.replace(SYSTEM, system) == text:
        shown = general.replace(SYSTEM, "{system}").replace(PROMPT, "{prompt}")
        return Rendering(shown, system or None, opening=opening)
    baked = text.replace(PROMPT, "{prompt}")
    return Rendering(None if baked == "{prompt}" else baked, opening=opening)


class FormulaModels:
    """The models that a formula names; ``default`` is that of operators that name none."""

    def __init__(self, default: Any = None) -> None:
        self.default = default
        self.renderings: list[tuple[ModelOperator, Rendering]] = []
        self._names: dict[Any, str] = {}
        self._operators: dict[str, tuple[ModelOperator, Rendering]] = {}
        self._bases: dict[str, str] = {}  # of adapters, where no operator reads them: path to name

    def expression(self, operator: ModelOperator) -> Expression:
        """An operator as a term, or as a reward."""
        shown = rendering(operator.prompt_template, operator.system_prompt)
        self.renderings.append((operator, shown))
        source = self._source(operator)
        identity = source if isinstance(source, str) else id(source)
        key = (type(operator).__name__, identity, shown.template, operator.label)
        if key not in self._names:
            self._names[key] = self._new(operator.model_name or _last(source))
            self._operators[self._names[key]] = (operator, shown)
        term = model(self._names[key])
        return term @ None if shown.empty else term @ shown.system if shown.system else term

    def tokenizer(self) -> Any:
        """The tokenizer of the first language model; ``ModelError`` where it cannot be read."""
        from transformers import AutoTokenizer

        from ..models import ModelError
        from ..models.errors import first_line

        for operator, _ in self.renderings:
            if operator.label is not None:
                continue
            spec = _spec_of(self._source(operator))
            source = operator.tokenizer or spec.get("tokenizer") or spec.get("path")
            if source is None:
                continue
            if not isinstance(source, str):
                return source
            try:
                return AutoTokenizer.from_pretrained(_base_of(source) or source)
            except (OSError, ValueError) as error:
                problem = f"the tokenizer of {source} cannot be read: {first_line(error)}"
                raise ModelError(problem, "give tokenizer=…, or a folder or hub id") from error
        raise ModelError("no model of the formula has a tokenizer", "give tokenizer=…")

    def specs(self, dtype: Any, tokenizer: Any, shared: bool) -> dict[str, dict[str, Any]]:
        """Every model's declaration, as options of ``descant.ModelSpec``.

        Args:
            dtype: of operators that name none.
            tokenizer: decides a text's first token; where ``shared``, of every language model.
        """
        specs = {name: self._spec(name, dtype, tokenizer) for name in list(self._operators)}
        for name, (operator, _) in self._operators.items():
            if shared and operator.label is None and "adapter" not in specs[name]:
                specs[name]["tokenizer"] = tokenizer
        plain = str(dtype).removeprefix("torch.")
        bases = {name: {"path": path, "dtype": plain} for path, name in self._bases.items()}
        return specs | bases

    def _source(self, operator: ModelOperator) -> Any:
        """An operator's model, or the default."""
        return self.default if operator.model is None else operator.model

    def _spec(self, name: str, dtype: Any, tokenizer: Any) -> dict[str, Any]:
        import torch

        operator, shown = self._operators[name]
        source = self._source(operator)
        spec = _spec_of(source)
        is_language = operator.label is None
        if "path" in spec:
            defaults = {"dtype": str(operator.dtype or dtype).removeprefix("torch.")}
            placed = spec.keys() & {"device", "device_map", "tp_plan"}
            if torch.cuda.device_count() > 1 and not placed:
                defaults["device_map"] = "auto"  # as language-model-arithmetic loads a model
            spec = defaults | spec
            base = _base_of(spec["path"])
            if base is not None and is_language:
                spec = {"adapter": spec["path"], "on": self._base(base)}
        if operator.label is not None:
            spec |= {"read": "text", "label": _label(*operator.label, source)}
        if operator.tokenizer is not None and "adapter" not in spec:
            spec["tokenizer"] = operator.tokenizer
        prefix = _prefix(tokenizer, shown.opening) if is_language else []
        if "adapter" in spec:  # unset options are its base's
            prefix = prefix or [tokenizer.bos_token_id] * (tokenizer.bos_token_id is not None)
            return spec | {"template": shown.template or "{prompt}", "prefix": prefix or None}
        spec.pop("template", None)
        options = {"template": shown.template, "prefix": prefix}
        return spec | {key: value for key, value in options.items() if value}

    def _base(self, path: str) -> str:
        """The name of an adapter's base."""
        for name, (operator, _) in self._operators.items():
            if self._source(operator) == path:
                return name
        if path not in self._bases:
            self._bases[path] = self._new(_last(path))
        return self._bases[path]

    def _new(self, wanted: str) -> str:
        """A name that a formula can have, and that is not taken."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII) or DEFAULT
        if name[0].isdigit() or is_word(name) or name in STAGES:
            name = f"m_{name}"
        taken = {*self._names.values(), *self._bases.values()}
        numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
        return next(free for free in (name, *numbered) if free not in taken)


def _prefix(tokenizer: Any, opening: str) -> list[int]:
    """The ids before a text with which it begins as language-model-arithmetic's.

    That puts a BOS before every text, even where the tokenizer adds none or a template wrote it.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return []
    written = opening.startswith(tokenizer.bos_token)
    if not written and tokenizer("x")["input_ids"][:1] == [bos]:
        return []
    return [bos] * (1 + written)


def _base_of(path: str) -> str | None:
    """The base of a LoRA adapter; None where a path or hub id is no adapter."""
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(path)
    if file is None:
        return None
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    return str(config["base_model_name_or_path"])


def _spec_of(source: Any) -> dict[str, Any]:
    if source is None:
        raise ArgumentError("a PromptedLLM names no model, and there is no default_model")
    if isinstance(source, dict):
        return dict(source)
    if isinstance(source, (str, Path)):
        return {"path": str(source)}
    return {"model": source, "tokenizer": source.name_or_path}


def _label(index: int, minimize: bool, source: Any) -> int:
    """The class, or the other one of two."""
    if not minimize:
        return index
    from transformers import AutoConfig

    config = getattr(source, "config", None)
    config = config or AutoConfig.from_pretrained(_spec_of(source)["path"])
    if config.num_labels != 2:
        cure = "give it a negative weight, base - 2*C, or the index of the class you want"
        raise Untranslatable(f"Classifier(minimize=True) over {config.num_labels} classes", cure)
    return 1 - index


def _last(source: Any) -> str:
    """The last part of a path or a hub id; of a model in memory, of where it came from."""
    if isinstance(source, dict):
        source = source.get("path") or source.get("adapter") or source.get("model")
    if not isinstance(source, (str, Path, type(None))):
        source = getattr(source, "name_or_path", "")
    return str(source or DEFAULT).rstrip("/").rpartition("/")[2]
