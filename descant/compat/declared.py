"""The models behind operators: a name for each in the formula, and its declaration.

Operators with one model and one template are one name, under one system prompt or several. Nothing
is read here but adapters' configurations, and a classifier's where its classes must be counted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..formula import STAGES
from ..formula.names import RESERVED
from ..lang import Expression, model
from .operators import PROMPT, SYSTEM, Classifier, PromptedLLM, Template
from .refused import Untranslatable

LONGEST = 80  # characters of a system prompt that is shown in a formula
DEFAULT = "base"  # the name of a model that is not said yet


@dataclass(frozen=True)
class Reading:
    """How an operator's text is made: a template of ours, and what stands in the formula after @.

    Attributes:
        template: with ``{prompt}`` and perhaps ``{system}``; None reads the prompt as it is.
        system: the system prompt in the formula.
        alone: whether no prompt is read at all.
        begins: what the text begins with, up to the prompt.
    """

    template: str | None
    system: str | None = None
    alone: bool = False
    begins: str = ""

    def text(self, prompt: str) -> str:
        """What is read of a prompt."""
        if self.alone:
            return ""
        parts = {"{prompt}": prompt, "{system}": self.system or ""}
        template = self.template or "{prompt}"
        return re.sub(r"\{prompt\}|\{system\}", lambda found: parts[found[0]], template)


def reading(template: Template, system: str) -> Reading:
    """What a function that makes texts does, as a template.

    Raises:
        Untranslatable: it does more than put the two texts in their places.
    """
    whole, placed = template(system, PROMPT), template(SYSTEM, PROMPT)
    if whole == "":
        return Reading(None, alone=True)
    if PROMPT not in whole:
        raise Untranslatable(
            f"a prompt_template leaves the input out, and makes {whole[:40]!r}",
            'let it use input_string, or be "" altogether, which is model@none',
        )
    begins = whole.partition(PROMPT)[0]
    fixed = {text: re.sub(f"{PROMPT}|{SYSTEM}", "", text) for text in (whole, placed)}
    for text in fixed.values():
        if "{prompt}" in text or "{system}" in text or "{{" in text:
            raise Untranslatable(
                f"a prompt_template writes braces: {text[:40]!r}",
                "a descant template has no place for {{, {prompt} or {system} as text",
            )
    shown = placed.replace(SYSTEM, "{system}").replace(PROMPT, "{prompt}")
    if SYSTEM in placed and placed.replace(SYSTEM, system) == whole and _short(system):
        return Reading(shown, system or None, begins=begins)
    baked = whole.replace(PROMPT, "{prompt}")
    return Reading(None if baked == "{prompt}" else baked, begins=begins)


def _short(system: str) -> bool:
    plain = system.isprintable() and not set('"\\') & set(system)
    return len(system) <= LONGEST and plain and not system.startswith("<")  # a BOS, perhaps


class Declared:
    """The models that a formula names.

    Args:
        default: the model of operators that name none.
    """

    def __init__(self, default: Any = None) -> None:
        self.default = default
        self.readings: list[tuple[PromptedLLM | Classifier, Reading]] = []
        self._names: dict[Any, str] = {}
        self._asked: dict[str, tuple[PromptedLLM | Classifier, Reading]] = {}
        self._hidden: dict[str, str] = {}  # bases of adapters that no operator reads: name, path

    def expression(self, asked: PromptedLLM | Classifier) -> Expression:
        """An operator as a term, or as a reward."""
        found = reading(asked.prompt_template, asked.system_prompt)
        self.readings.append((asked, found))
        source = self.source(asked)
        key = source if isinstance(source, str) else id(source)
        label = (asked.index, asked.minimize) if isinstance(asked, Classifier) else None
        one = (type(asked).__name__, key, found.template, label)
        if one not in self._names:
            self._names[one] = self._new(asked.model_name or _last(source))
            self._asked[self._names[one]] = (asked, found)
        term = model(self._names[one])
        return term @ None if found.alone else term @ found.system if found.system else term

    def source(self, asked: PromptedLLM | Classifier) -> Any:
        """An operator's model, or the default."""
        return self.default if asked.model is None else asked.model

    @property
    def language(self) -> list[str]:
        """The names of language models."""
        return [name for name, (one, _) in self._asked.items() if isinstance(one, PromptedLLM)]

    def tokenizer(self) -> Any:
        """The tokenizer of the first language model.

        Raises:
            ModelError: it cannot be read.
        """
        from transformers import AutoTokenizer

        from ..models import ModelError
        from ..models.errors import first_line

        for asked, _ in self.readings:
            if not isinstance(asked, PromptedLLM):
                continue
            spec = sourced(self.source(asked))
            found = asked.tokenizer or spec.get("tokenizer") or spec.get("path")
            if found is not None and not isinstance(found, str):
                return found
            if found is not None:
                try:
                    return AutoTokenizer.from_pretrained(adapted(found) or found)
                except (OSError, ValueError) as error:
                    problem = f"the tokenizer of {found} cannot be read: {first_line(error)}"
                    raise ModelError(problem, "give tokenizer=…, or a folder or hub id") from error
        raise ModelError("no model of the formula says its tokenizer", "give tokenizer=…")

    def specs(self, dtype: Any, tokenizer: Any) -> dict[str, dict[str, Any]]:
        """Every model's declaration, as options of ``descant.ModelSpec``.

        Args:
            dtype: of operators that name none.
            tokenizer: of the formula's models; the first token of a text is what it says.
        """
        found = {name: self._spec(name, dtype, tokenizer) for name in list(self._asked)}
        hidden = {name: {"path": p, "dtype": _word(dtype)} for name, p in self._hidden.items()}
        return found | hidden

    def _spec(self, name: str, dtype: Any, tokenizer: Any) -> dict[str, Any]:
        asked, read = self._asked[name]
        source = self.source(asked)
        spec = sourced(source)
        if "path" in spec:
            placed = {"device", "device_map", "tp_plan"} & set(spec)
            spec = {"dtype": _word(asked.dtype or dtype), **({} if placed else _spread()), **spec}
            base = adapted(spec["path"])
            if base is not None and isinstance(asked, PromptedLLM):
                spec = {"adapter": spec["path"], "on": self._base(base)}
        if isinstance(asked, Classifier):
            spec |= {"read": "text", "label": _label(asked, source)}
        if asked.tokenizer is not None and "adapter" not in spec:
            spec["tokenizer"] = asked.tokenizer
        first = beginning(tokenizer, read.begins) if isinstance(asked, PromptedLLM) else []
        if "adapter" in spec:  # which reads as its base does, where it says nothing
            first = first or [tokenizer.bos_token_id] * (tokenizer.bos_token_id is not None)
            return spec | {"template": read.template or "{prompt}", "prefix": first or None}
        spec.pop("template", None)
        return spec | {
            key: value for key, value in (("template", read.template), ("prefix", first)) if value
        }

    def _base(self, path: str) -> str:
        """The name of an adapter's base."""
        for name, (asked, _) in self._asked.items():
            if self.source(asked) == path:
                return name
        for name, known in self._hidden.items():
            if known == path:
                return name
        name = self._new(_last(path))
        self._hidden[name] = path
        return name

    def _new(self, wanted: str) -> str:
        """A name that a formula can have, and that is not taken."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII) or DEFAULT
        if name[0].isdigit() or name in RESERVED | set(STAGES):
            name = f"m_{name}"
        taken = {*self._names.values(), *self._hidden}
        more = (f"{name}_{number}" for number in range(2, len(taken) + 3))
        return next(one for one in (name, *more) if one not in taken)


def beginning(tokenizer: Any, begins: str) -> list[int]:
    """What must be read before a text for it to begin as language-model-arithmetic's.

    That puts a BOS before every text, even where the tokenizer adds none or a template wrote it.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return []
    written = begins.startswith(tokenizer.bos_token)
    if not written and tokenizer("x")["input_ids"][:1] == [bos]:
        return []
    return [bos] * (1 + written)


def adapted(path: str) -> str | None:
    """The base of a LoRA adapter; None where a path or hub id is no adapter."""
    from transformers.utils import find_adapter_config_file

    found = find_adapter_config_file(path)
    if found is None:
        return None
    said = json.loads(Path(found).read_text(encoding="utf-8"))
    return str(said["base_model_name_or_path"])


def sourced(source: Any) -> dict[str, Any]:
    if source is None:
        raise ValueError("a PromptedLLM names no model, and there is no default_model")
    if isinstance(source, dict):
        return dict(source)
    if isinstance(source, (str, Path)):
        return {"path": str(source)}
    return {"model": source, "tokenizer": source.name_or_path}


def _word(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _spread() -> dict[str, str]:
    """Over several GPUs, as accelerate spreads it, and as language-model-arithmetic loads it."""
    import torch

    return {"device_map": "auto"} if torch.cuda.device_count() > 1 else {}


def _label(asked: Classifier, source: Any) -> int:
    """The class, or the other one of two."""
    if not asked.minimize:
        return asked.index
    from transformers import AutoConfig

    config = getattr(source, "config", None) or AutoConfig.from_pretrained(sourced(source)["path"])
    if config.num_labels != 2:
        raise Untranslatable(
            f"Classifier(minimize=True) over {config.num_labels} classes",
            "give it a negative weight, base - 2*C, or the index of the class you want",
        )
    return 1 - asked.index


def _last(source: Any) -> str:
    """The last part of a path or a hub id; of a model in memory, of where it came from."""
    if isinstance(source, dict):
        source = source.get("path") or source.get("adapter") or source.get("model")
    if not isinstance(source, (str, Path, type(None))):
        source = getattr(source, "name_or_path", "")
    return str(source or DEFAULT).rstrip("/").rpartition("/")[2]
