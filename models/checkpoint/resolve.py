"""What a declared name stands for: whose weights, and how the model reads. No file is read here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import ModelError
from .spec import ADDED, READING, ModelSpec


@dataclass(frozen=True)
class ResolvedModel:
    """A declared model: its weights, what is added to them, and how it reads.

    Attributes:
        name: as declared.
        base: the declared name of the weights: the model's own, or what it is declared ``on``.
        spec: the declaration of the weights. Where an adapter or a vector sets a template, system
            prompt, prefix, label, read mode or steps of its own, the spec has that.
        addition: the declaration of the adapter, a row's or one to merge, of the steering vector
            or of the head; None where there is none.
    """

    name: str
    base: str
    spec: ModelSpec
    addition: ModelSpec | None = None

    @property
    def merged(self) -> bool:
        """Whether an adapter is merged into a copy of the base: weights of its own."""
        return self.addition is not None and self.addition.merge

    @property
    def kind(self) -> str:
        """What is added, for messages."""
        return _kind(self.addition or self.spec)


def resolve(name: str, specs: Mapping[str, ModelSpec]) -> ResolvedModel:
    """A declared model; or an adapter, a vector or a head together with its base.

    Raises:
        ModelError: the base is not declared, or is itself on another model.

    >>> specs = {"rm": ModelSpec(path="org/rm", label="good", template="{prompt}"),
    ...          "kind": ModelSpec(adapter="org/kind", on="rm", label="kind")}
    >>> kind = resolve("kind", specs)
    >>> kind.base, kind.spec.path, kind.spec.label, kind.spec.template
    ('rm', 'org/rm', 'kind', '{prompt}')
    """
    declared = specs[name]
    if declared.on is None:
        return ResolvedModel(name, name, declared)
    base = specs.get(declared.on)
    if base is None or base.on is not None:
        kind = _kind(declared)
        problem = "is not declared" if base is None else f"is itself {_kind(base)}"
        problem = f"the {kind.split()[-1]} {name} is on {declared.on}, which {problem}"
        cure = f"{kind} goes on a declared model with weights of its own"
        raise ModelError(problem, cure, name)
    own = {key: getattr(declared, key) for key in READING if getattr(declared, key) is not None}
    return ResolvedModel(name, declared.on, base.model_copy(update=own), declared)


def _kind(spec: ModelSpec) -> str:
    return next(words for key, words in ADDED.items() if getattr(spec, key) is not None)


def with_bases(names: Iterable[str], specs: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """The specs of these models, and of the declared bases of those among them that are on one."""
    chosen = {name: specs[name] for name in names}
    bases = {spec.on for spec in chosen.values() if spec.on is not None}
    return chosen | {name: specs[name] for name in bases if name in specs}
