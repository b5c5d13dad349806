"""Tiny checkpoints that tests build in seconds: every kind of model that the runtime treats apart.

Weights are random and large, so that the best token leads by far more than rounding can change;
nothing here knows of descant.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEXTS = [
    "a small stone in the river, and the river goes on to the sea",
    "the quick brown fox jumps over the lazy dog; the dog sleeps on",
    "def add(one, two): return one + two",
]
CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}"
    "{{ '\\n' if not (loop.last and continue_final_message) }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PAD, BOS, EOS = 0, 1, 2


@cache
def tokenizer(size: int = 300, pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """A byte-level BPE with BOS, EOS, padding and a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        unk_token="<pad>",
        chat_template=CHAT,
    )


def renumbered(ids: Mapping[str, int], **roles: str) -> PreTrainedTokenizerFast:
    """The tokenizer with these ids, and without the tokens that have none."""
    whole = tokenizer()
    data = json.loads(whole.backend_tokenizer.to_str())
    merges = [pair for pair in data["model"]["merges"] if {*pair, "".join(pair)} <= set(ids)]
    data["model"] |= {"vocab": dict(ids), "merges": merges}
    data["added_tokens"] = [
        token | {"id": ids[token["content"]]}
        for token in data["added_tokens"]
        if token["content"] in ids
    ]
    bos = roles.get("bos_token", "<s>")
    begins = {"id": bos, "ids": [ids[bos]], "tokens": [bos]}
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    data["post_processor"] |= {"single": single, "pair": single, "special_tokens": {bos: begins}}
    special = {"bos_token": bos, "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    made = Tokenizer.from_str(json.dumps(data))
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=CHAT, **special | roles)


def turned() -> dict[str, int]:
    """The tokenizer's strings in another order."""
    strings = sorted(tokenizer().get_vocab())
    order = torch.randperm(len(strings), generator=torch.Generator().manual_seed(5))
    return dict(zip(strings, order.tolist(), strict=True))


def moved(model: Any, ids: Mapping[str, int]) -> Any:
    """A copy of a model whose tokens have these ids."""
    model = copy.deepcopy(model)
    rows = torch.tensor([tokenizer().get_vocab()[token] for token in sorted(ids, key=ids.get)])
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight = torch.nn.Parameter(layer.weight.data[rows].clone(), requires_grad=False)
    model.config.vocab_size = len(rows)
    return model


def _sizes(**other: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer()), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "initializer_range": 0.4,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, **other,
    }  # fmt: skip


def llama(**other: Any) -> LlamaForCausalLM:
    """A Llama with grouped heads."""
    return LlamaForCausalLM(LlamaConfig(**_sizes(**other)))


def mistral() -> MistralForCausalLM:
    """A Mistral that sees 8 tokens back."""
    return MistralForCausalLM(MistralConfig(**_sizes(sliding_window=8)))


def qwen2() -> Qwen2ForCausalLM:
    """A Qwen2 whose head is its input embedding."""
    return Qwen2ForCausalLM(Qwen2Config(**_sizes(tie_word_embeddings=True)))


def gpt2() -> GPT2LMHeadModel:
    """A GPT-2: absolute positions, Conv1D, a tied head."""
    config = GPT2Config(
        vocab_size=len(tokenizer()), n_embd=32, n_layer=2, n_head=4, n_positions=64,
        initializer_range=0.4, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def opt() -> OPTForCausalLM:
    """An OPT: absolute positions that begin at 2."""
    config = OPTConfig(
        vocab_size=len(tokenizer()), hidden_size=32, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32, init_std=0.4,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return OPTForCausalLM(config)


def reward(**other: Any) -> LlamaForSequenceClassification:
    """A reward model with one label."""
    return LlamaForSequenceClassification(LlamaConfig(num_labels=1, **_sizes(**other)))


def _broken() -> LlamaForCausalLM:
    model = llama()
    model.model.norm.weight.data[3] = float("nan")
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "base": llama,
    "arm": llama,
    "arm2": llama,
    "strong": lambda: llama(hidden_size=48, num_hidden_layers=3),
    "padded": lambda: llama(vocab_size=len(tokenizer()) + 32),
    "short": lambda: llama(max_position_embeddings=24),
    "broken": _broken,
    "gpt2": gpt2,
    "opt": opt,
    "mistral": mistral,
    "qwen2": qwen2,
    "rm": reward,
    "rm2": reward,
    "rm_eos": lambda: reward(pad_token_id=EOS),  # the padding token is the end of a text
    "other": lambda: llama(vocab_size=len(tokenizer(310))),
}
LORA: dict[str, tuple[str, dict[str, Any]]] = {
    "lora4": ("base", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "lora8": ("base", {
        "r": 8, "lora_alpha": 16, "use_rslora": True,
        "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"],
    }),
    "patterns": ("base", {
        "r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"v_proj": 6}, "alpha_pattern": {"v_proj": 24, r"layers\.1\..*up_proj": 9},
    }),
    "lora_gpt2": ("gpt2", {
        "r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True,
    }),
    "lora_opt": ("opt", {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "fc1", "fc2"]}),
    "lora_rm": ("rm", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
}  # fmt: skip


class Checkpoints:
    """Folders of checkpoints and their models in memory, by name; each is made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._models: dict[str, Any] = {}
        self._loaded: dict[Any, Any] = {}

    def path(self, name: str) -> str:
        """The folder of a checkpoint or an adapter."""
        folder = self.root / name
        if not folder.exists():
            torch.manual_seed(sum(map(ord, name)))
            (self._adapter if name in LORA else self._checkpoint)(name, folder)
        return str(folder)

    def model(self, name: str) -> Any:
        """The model in memory, float32, for plain code; an adapter's is peft's own."""
        if name not in self._models:
            path = self.path(name)
            self._models[name] = self._with_peft(name) if name in LORA else fresh(path)
            self._models[name].stays_as_it_is = True  # so that it is asked once for each text
        return self._models[name]

    def loaded(self, load: Callable[..., Any], description: Any, model: Any, *options: Any) -> Any:
        """What loads a declared model, but for one of these folders that has been loaded before.

        Tests would spend a fourth of their time on it. One that somebody has hooked or written to
        is loaded again.
        """
        *_, skeleton = options
        ours = model.spec.model is None and Path(model.spec.path).parent == self.root
        if model.merged or skeleton or not ours:
            return load(description, model, *options)
        key = (description.weights, *options)
        if key not in self._loaded or _is_changed(self._loaded[key]):
            self._loaded[key] = load(description, model, *options)
        return self._loaded[key]

    def adapter(self, name: str) -> dict[str, str]:
        """What a formula's declaration of an adapter says."""
        return {"adapter": self.path(name), "on": LORA[name][0]}

    def _checkpoint(self, name: str, folder: Path) -> None:
        MODELS[name]().save_pretrained(folder)
        size = 310 if name == "other" else 300
        tokenizer(size, pad="</s>" if name == "rm_eos" else "<pad>").save_pretrained(folder)

    def _adapter(self, name: str, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        on, options = LORA[name]
        config = LoraConfig(init_lora_weights=False, **options)
        model = get_peft_model(fresh(self.path(on)), config)
        model.save_pretrained(folder)

    def _with_peft(self, name: str) -> Any:
        from peft import PeftModel

        return PeftModel.from_pretrained(fresh(self.path(LORA[name][0])), self.path(name)).eval()


def _is_changed(model: Any) -> bool:
    """Whether a model has hooks, or weights that were written in place."""
    hooked = (one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    return any(hooked) or any(weight._version for weight in model.parameters())


def fresh(path: str) -> Any:
    """A model of one's own from a folder, float32."""
    rewards = "Classification" in (Path(path) / "config.json").read_text()
    auto = AutoModelForSequenceClassification if rewards else AutoModelForCausalLM
    return auto.from_pretrained(path, dtype=torch.float32).eval()
