"""Reward models as people hold them, tiny: their tokenizers, their heads, and what each says alone.

What a reward model says of a text is worked out here by itself, one whole text at a time, without a
cache and without padding; nothing here knows of descant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

TEXTS = [
    "a small stone in the river, and the river goes on to the sea. the riverside is a good place.",
    "the quick brown fox jumps over the lazy dog; the dog sleeps on. I am naïve, and happy 🙂.",
    "def add(one, two): return one + two  # 好的 你好 世界 👍🏽",
]
BOS, EOS = 1, 2


def _trained(tokenizer: Tokenizer, trainer: Any, **roles: str) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _begins(tokenizer: PreTrainedTokenizerFast, token: str, ends: str = "") -> Any:
    ids = tokenizer.get_vocab()
    special = [(one, ids[one]) for one in (token, ends) if one]
    single = f"{token} $A {ends}".strip()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B {ends}".strip(), special_tokens=special
    )
    return tokenizer


@cache
def byte_level(size: int = 330) -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: every byte is a letter, so that a token may end in half of one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made = _trained(bpe, trainer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return _begins(made, "<s>")


@cache
def sentences(split: bool = False) -> PreTrainedTokenizerFast:
    """As Llama 2's: a mark for the space, bytes for what is unknown; words are merged, too."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=split)
    bpe.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(content=" ", left=1),
    ])  # fmt: skip
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False,
        limit_alphabet=50,
    )  # fmt: skip
    made = _trained(bpe, trainer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    # the bytes are no special tokens, and are not found in a text
    said = json.loads(made.backend_tokenizer.to_str())
    said["added_tokens"] = [one for one in said["added_tokens"] if one["id"] < 3]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(said)),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    return _begins(made, "<s>")


@cache
def words(side: str = "right") -> PreTrainedTokenizerFast:
    """As BERT's: lower case, pieces of words, and a token at either end."""
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=160, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    made = _trained(
        pieces, trainer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        unk_token="[UNK]", padding_side=side,
    )  # fmt: skip
    return _begins(made, "[CLS]", "[SEP]")


@cache
def roberta() -> PreTrainedTokenizerFast:
    """As RoBERTa's: byte-level, a token at either end, and padding that is not 0."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made = _trained(
        bpe, trainer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    return _begins(made, "<s>", "</s>")


TOKENIZERS = {
    "byte_level": byte_level, "sentences": sentences, "words": words, "roberta": roberta,
    "left": lambda: words("left"),  # as XLNet's, which reads a text at its last token
    "split": lambda: sentences(split=True), "larger": lambda: byte_level(360),
}  # fmt: skip
_TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.4,
}  # fmt: skip
_LLAMA = {**_TINY, "num_key_value_heads": 2, "max_position_embeddings": 512}


def _gpt2(**other: Any) -> GPT2Config:
    return GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.4, **other
    )


CONFIGS: dict[str, Any] = {
    "llama": lambda **more: LlamaConfig(**_LLAMA, **more),
    "mistral": lambda **more: MistralConfig(**_LLAMA, sliding_window=6, **more),
    "gpt2": _gpt2,
    "opt": lambda **more: OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, init_std=0.4,
        max_position_embeddings=256, word_embed_proj_dim=32, **more,
    ),
    "bloom": lambda **more: BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4, **more
    ),
    "mpt": lambda **more: MptConfig(
        d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, initializer_range=0.4, **more
    ),
    "falcon": lambda **more: FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True,
        initializer_range=0.4, **more,
    ),
    "bert": lambda **more: BertConfig(**_TINY, max_position_embeddings=128, **more),
    "electra": lambda **more: ElectraConfig(
        **_TINY, embedding_size=32, max_position_embeddings=128, **more
    ),
    "roberta": lambda **more: RobertaConfig(
        **_TINY, max_position_embeddings=130, **{"pad_token_id": 1, **more}
    ),
    "distilbert": lambda **more: DistilBertConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=4, initializer_range=0.4,
        max_position_embeddings=128, **more,
    ),
    "deberta": lambda **more: DebertaV2Config(
        **_TINY, max_position_embeddings=128, relative_attention=True, position_buckets=8,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
        norm_rel_ebd="layer_norm", share_att_key=True, pooler_hidden_size=32, **more,
    ),
    "xlnet": lambda **more: XLNetConfig(
        d_model=32, n_layer=2, n_head=4, d_inner=48, initializer_range=0.4, **more
    ),
    "bart": lambda **more: BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, init_std=0.4,
        max_position_embeddings=128, **more,
    ),
}  # fmt: skip


def judge(folder: Path, family: str, tokenizer: str, kind: str = "Sequence", **more: Any) -> str:
    """The folder of a classifier, saved with its tokenizer."""
    own = TOKENIZERS[tokenizer]()
    torch.manual_seed(sum(map(ord, f"{family}{tokenizer}{kind}{sorted(more.items())}")))
    auto = {
        "Sequence": AutoModelForSequenceClassification,
        "Token": AutoModelForTokenClassification,
    }[kind]
    roles = {"bos_token_id": own.bos_token_id, "eos_token_id": own.eos_token_id}
    roles |= {} if own.pad_token_id is None else {"pad_token_id": own.pad_token_id}
    config = CONFIGS[family](**{"vocab_size": len(own), "num_labels": 1, **roles, **more})
    model = auto.from_config(config)
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return str(folder)


def language(folder: Path, tokenizer: str, seed: int = 3) -> str:
    """The folder of a language model over a tokenizer."""
    own = TOKENIZERS[tokenizer]()
    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(own), bos_token_id=BOS, eos_token_id=EOS, **_LLAMA)
    ).save_pretrained(folder)
    own.save_pretrained(folder)
    return str(folder)


def alone(path: str, text: str, special: bool = True) -> torch.Tensor:
    """``(labels,)`` what a causal classifier's head says at the last token of one whole text."""
    model, own = loaded(path), tokenizer_of(path)
    return at_the_end(model, own(text, add_special_tokens=special)["input_ids"])


@torch.no_grad()
def at_the_end(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """``(labels,)`` a causal classifier's head at the last of these tokens."""
    hidden = model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0, -1]
    head = model.score if hasattr(model, "score") else model.classifier
    return judged(head(hidden), model.config)


@torch.no_grad()
def by_itself(path: str, text: str, special: bool = True) -> torch.Tensor:
    """``(labels,)`` what a classifier's own forward says of one text."""
    model, own = loaded(path), tokenizer_of(path)
    inputs = own(text, add_special_tokens=special, return_tensors="pt")
    return judged(model(**inputs).logits[0], model.config)


def judged(outputs: torch.Tensor, config: Any) -> torch.Tensor:
    """Outputs as rewards: by the configuration."""
    if config.problem_type == "multi_label_classification":
        return functional.logsigmoid(outputs)
    if config.problem_type == "regression" or len(outputs) == 1:
        return outputs
    return outputs.log_softmax(-1)


@cache
def tokenizer_of(path: str) -> Any:
    """The tokenizer in a folder."""
    return PreTrainedTokenizerFast.from_pretrained(path)


@cache
def loaded(path: str) -> Any:
    """The classifier in a folder."""
    tokens = "ForTokenClassification" in (Path(path) / "config.json").read_text()
    auto = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    return auto.from_pretrained(path, dtype=torch.float32).eval()


def written(tokenizer: Any, prompt: Sequence[int], made: Sequence[int]) -> str:
    """What tokens add to the text of a prompt."""
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    after = tokenizer.decode([*prompt, *made], skip_special_tokens=True)
    assert after.startswith(before)
    return after[len(before) :]
