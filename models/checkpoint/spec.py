"""A declared model: exactly one source, and options. No file is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ...errors import quoted
from ..errors import ModelError
from ..functions import FunctionReward, is_python
from ..invalid import explain

_QUANTIZED = "write quantization: {quant_method: bitsandbytes, load_in_4bit: true}"
_FUNCTION = "a function is a reward in Python alone: models={…: descant.reward(fn)}"
# Sources on another model's weights.
ADDED = {"adapter": "an adapter", "vector": "a vector", "head": "a head"}
OWN_HEAD = "own"
READING = (
    "template",
    "system",
    "prefix",
    "label",
    "read",
    "steps",
    "reasoning",
)  # how a model reads
RENAMED = {  # options of other libraries, and what to write
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_config"), _QUANTIZED),
    **dict.fromkeys(("pretrained_model_name_or_path", "name_or_path", "folder"), "write path: …"),
    **dict.fromkeys(("chat_template", "prompt_template"), "write template: …"),
    **dict.fromkeys(("peft", "lora", "adapter_path"), "write adapter: …, and on: the base's name"),
    **dict.fromkeys(("function", "reward"), _FUNCTION),
    "attn_implementation": "leave it out: every model is given the attention that rows need",
    "num_labels": "leave it out; label: … picks one of a classifier's outputs",
    "system_prompt": "write system: …",
    "torch_dtype": "write dtype: …",
}


_Mark = (
    Annotated[str, Field(min_length=1, max_length=64)]
    | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=64)]
)


class Steps(BaseModel):
    """How a process reward scores an answer: step by step.

    Attributes:
        by: the text that ends a step.
        reduce: what the rewards of the steps become: the least, their product, the last one or
            their mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field(min_length=1)
    reduce: Literal["min", "prod", "last", "mean"] = "min"


class Marks(BaseModel):
    """The marks that a model thinks between.

    Attributes:
        start, end: each a text, or token ids. A text that is a token of the vocabulary is that
            token; any other is found however tokens spell it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: _Mark
    end: _Mark


class ModelSpec(BaseModel):
    """A declared model.

    Exactly one of ``path``, ``model``, and ``adapter``, ``vector`` or ``head`` (with ``on``) says
    where the weights are.

    Attributes:
        path: a folder, a ``.gguf`` file or a hub id; ``revision`` pins it.
        model: a model in memory: a transformers model, a PeftModel with its active adapters, or
            one of ``descant.models.tables``, or a function, ``descant.reward(fn)``. It stays its
            owner's: weights are read as they are now, and its mode is as before after every
            forward.
        adapter: a folder or hub id of an adapter as peft stores it, on the declared model named
            by ``on``: LoRA, as rows of that model's forward.
        vector: a steering vector on the declared model named by ``on``: a ``.safetensors`` or
            ``.gguf`` file, a folder with one or a hub id; or, in memory, a mapping of decoder
            layers, from 0, to directions, each as wide as the model.
        tokens: which tokens a vector steers: ``answer`` (the default), the positions after the
            prompt; ``all``, every position.
        head: what ``head(x, v)`` applies to the output of one decoder layer of the model named by
            ``on``: a safetensors file with ``weight`` ``(outputs, hidden)`` and, if wanted,
            ``bias`` ``(outputs,)``, or a folder as ``descant train probe`` writes it; ``own``, the
            model's own norm and head; in memory a torch module, a weight, or a pair of weight and
            bias. It gives one number, or as many as the model has tokens.
        layer: of a head, that decoder layer, counted from 0; a probe's folder says it.
        merge: merge the adapter, of any kind that peft can merge, into a copy of that model:
            weights of its own.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (the checkpoint's own).
        device: where the model runs, as torch names devices.
        device_map: accelerate's map, for a model that spans devices or is offloaded.
        tp_plan: ``auto`` splits every layer over the processes of the job, in transformers' words;
            with ``parallel="terms"``.
        quantization: how to quantise the weights while they are read, in the words of
            ``quantization_config`` in a checkpoint's config.json; a checkpoint that is quantised
            already needs none.
        tokenizer: a folder or hub id, or a tokenizer in memory, where it is not the model's own.
        processor: a folder or hub id of transformers' processor, or one in memory, by which the
            model reads images; left out, the checkpoint's own.
        template: a chat template, the name of one of the tokenizer's, ``chat`` (its default, with
            a text as one user message), or a string with ``{prompt}`` and, if wanted,
            ``{system}``. Left out, a text is read as it is, and messages through the default.
        system: the system prompt where the formula gives none.
        prefix: text or token ids that this model alone reads before the prompt.
        label: for a classifier with several outputs, the name or number of the one that is the
            reward.
        read: ``text`` for a reward model that reads the decoded text with its own tokenizer;
            ``tokens`` (the default) for one that reads the same ids as everything else.
        steps: of a process reward, which scores every step of an answer: the text that ends one,
            and what their rewards become, ``{by: "\\n\\n", reduce: min}``, or ``prod``, ``last`` or
            ``mean``. It reads text.
        reasoning: the marks that the model thinks between, ``{start: <think>, end: </think>}``;
            left out, they are found in its vocabulary or its chat template.
        trust_remote_code: run code from the checkpoint. Never on unless you say so.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)
    HINTS: ClassVar[Mapping[str, str]] = RENAMED

    path: str | None = None
    revision: str | None = None
    model: Any = None
    adapter: str | None = None
    on: str | None = None
    vector: Any = None
    tokens: Literal["answer", "all"] | None = None
    head: Any = None
    layer: int | None = Field(default=None, ge=0)
    merge: bool = False
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    tp_plan: Literal["auto"] | None = None
    quantization: dict[str, Any] | None = None
    tokenizer: Any = None
    processor: Any = None
    template: str | None = None
    system: str | None = None
    prefix: str | list[int] | None = None
    label: int | str | None = None
    read: Literal["tokens", "text"] | None = None
    steps: Steps | None = None
    reasoning: Marks | None = None
    trust_remote_code: bool = False

    @field_validator("path")
    @classmethod
    def _no_code(cls, path: str | None) -> str | None:
        if path is not None and is_python(path) and not os.path.isdir(path):
            raise ValueError(f"{quoted(path)} is Python code, which nothing here runs; {_FUNCTION}")
        return path

    @field_validator("model")
    @classmethod
    def _without_peft(cls, model: Any) -> Any:
        """The model inside a PeftModel, which has the adapters' layers in it."""
        if isinstance(model, (str, int, float, list, Mapping)):
            cure = "a checkpoint is path: …, and a function is a reward in Python alone"
            raise ValueError(f"it is an object of Python, and this is {quoted(model)}; {cure}")
        called = callable(model) and not isinstance(model, FunctionReward)
        if called and not (hasattr(model, "config") or hasattr(model, "forward")):
            name = getattr(model, "__name__", type(model).__name__)
            raise ValueError(f"{name} is a function; as a reward, write descant.reward({name})")
        if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
            return model
        if model.active_peft_config.is_prompt_learning:
            kind = model.active_peft_config.peft_type.value
            raise ValueError(f"a model with {kind} reads more than its prompt; give its base alone")
        return model.get_base_model()

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        sources = [key for key in ("path", "model", *ADDED) if getattr(self, key) is not None]
        if len(sources) != 1:
            here = " and ".join(sources) or "none of them"
            known = ", ".join(("path", "model", *[*ADDED][:-1]))
            raise ValueError(f"give exactly one of {known} and {[*ADDED][-1]}; here: {here}")
        kind, added = ADDED.get(sources[0], "an adapter"), sources[0] in ADDED
        if added != (self.on is not None):
            written = f"{kind.split()[1]}: …, on: base"
            raise ValueError(f"{kind} needs the model that it goes on: {written}")
        tokens = f"tokens: {self.tokens}"
        own = (
            ("merge: true", self.merge, "adapter"),
            (tokens, self.tokens, "vector"),
            (f"layer: {self.layer}", self.layer is not None, "head"),
        )
        for option, is_set, source in own:
            if is_set and source not in sources:
                written = f"{source}: …, on: base, {option}"
                raise ValueError(f"{option} is of {ADDED[source]}: {written}")
        placement, loading = ("device", "device_map", "tp_plan"), ("dtype", "quantization")
        reading = READING if self.head is not None else ()
        for key in (*loading, *placement, "tokenizer", "processor", *reading):
            if added and getattr(self, key) is not None:
                raise ValueError(f"{kind} takes its base's {key}; say it there")
        for key in ("revision", *loading, *placement):
            if self.model is not None and getattr(self, key) is not None:
                raise ValueError(f"a model in memory has its {key}; leave it out, or give a path")
        if isinstance(self.model, FunctionReward):
            for key in ("tokenizer", "processor", *READING):
                if getattr(self, key) is not None:
                    raise ValueError(f"a function reads prompts as they are; leave {key} out")
        if self.steps is not None and self.read == "tokens":
            raise ValueError("steps are of text; leave read: tokens out")
        placed = [key for key in placement if getattr(self, key) is not None]
        if placed[1:]:
            raise ValueError(f"give {placed[0]} or {placed[1]}, not both")
        return self


def make_spec(name: str, value: Any) -> ModelSpec:
    """The spec of a declared model, from a path, a mapping, a spec or a model in memory.

    Raises:
        ModelError: an unknown option (with a suggestion), or not exactly one source.
    """
    if isinstance(value, ModelSpec):
        return value
    if isinstance(value, (str, os.PathLike)):
        return ModelSpec(path=os.fspath(value))
    options = {"model": value}
    if isinstance(value, Mapping):
        options = {key: _as_option(item) for key, item in value.items()}
    try:
        return ModelSpec(**options)
    except ValidationError as error:
        raise ModelError(f"the model {name}: {explain(error, ModelSpec)}", model=name) from None


def _as_option(value: Any) -> Any:
    """torch.bfloat16 and torch.device as the words that stand for them."""
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    return os.fspath(value) if isinstance(value, os.PathLike) else value
