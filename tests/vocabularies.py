"""Tokenizers of every kind that checkpoints come with, small, and made by the tokenizers library.

Nothing here knows of descant.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from checkpoints import CHAT, TEXTS
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

WORDS = [*TEXTS, "the stone, the stones and the rivers", "one two three 123 45", "été à la mer"]
HEX = [f"<0x{byte:02X}>" for byte in range(256)]


def _fast(made: Tokenizer, added: tuple[str, ...] = (), **roles: str) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **roles)
    if added:
        fast.add_special_tokens({"additional_special_tokens": list(added)})
    return fast


def _begins(made: Tokenizer, bos: str) -> None:
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
    )


@cache
def llama_like(size: int = 380, legacy: bool = True, **roles: str) -> PreTrainedTokenizerFast:
    """A SentencePiece BPE with byte fallback, as Llama-2's and Mistral's files hold it."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    names = ["<unk>", "<s>", "</s>", *HEX]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=names, show_progress=False)
    bpe.train_from_iterator(WORDS, trainer)
    data = json.loads(bpe.to_str())
    data["added_tokens"] = data["added_tokens"][:3]  # byte tokens are none of them
    bpe = Tokenizer.from_str(json.dumps(data))
    if legacy:
        bpe.pre_tokenizer = pre_tokenizers.Sequence([])
        bpe.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    _begins(bpe, "<s>")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _fast(bpe, **{"chat_template": CHAT} | special | roles)


@cache
def qwen_like(size: int = 420, chat: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE with digits apart, and ends of text and of turn of its own."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(WORDS, trainer)
    bpe.add_tokens(["<tool_call>", "  "])
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    ending = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    made = _fast(bpe, names, **ending)
    made.chat_template = chat
    return made


@cache
def unigram_like(more: str = "") -> PreTrainedTokenizerFast:
    """A SentencePiece Unigram without byte tokens, as T5's and XLNet's."""
    one = Tokenizer(models.Unigram())
    one.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    one.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    one.train_from_iterator([*WORDS, more], trainer)
    return _fast(one, unk_token="<unk>", eos_token="</s>")


@cache
def wordpiece_like(more: str = "") -> PreTrainedTokenizerFast:
    """A WordPiece, as BERT's, without lower case."""
    piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    piece.decoder = decoders.WordPiece()
    names = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=names, show_progress=False)
    piece.train_from_iterator([*WORDS, more], trainer)
    return _fast(piece, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


@cache
def suffixed_like() -> PreTrainedTokenizerFast:
    """A BPE whose words end in ``</w>``, as the first GPT's."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(WORDS, trainer)
    return _fast(bpe, unk_token="<unk>")


@cache
def words_like() -> PreTrainedTokenizerFast:
    """Whole words and no decoder, which are joined by spaces."""
    level = Tokenizer(models.WordLevel(unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    level.train_from_iterator(
        WORDS, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)
    )
    return _fast(level, unk_token="<unk>", eos_token="</s>")


class Tiktoken(PreTrainedTokenizer):
    """Tokens that are bytes, decoded in Python, as in the code of the first Qwen."""

    def __init__(self, tokens: list[bytes], **roles: Any) -> None:
        self._tokens, self._numbers = tokens, {token: i for i, token in enumerate(tokens)}
        super().__init__(**roles)

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    def get_vocab(self) -> dict[Any, int]:
        return {**self._numbers, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: Any) -> list[bytes]:
        return [bytes([byte]) for byte in text.encode()]

    def _convert_token_to_id(self, token: Any) -> int:
        return self._numbers[token]

    def _convert_id_to_token(self, index: int) -> Any:
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[Any]) -> str:
        parts = [part.encode() if isinstance(part, str) else part for part in tokens]
        return b"".join(parts).decode("utf-8", "replace")


@cache
def tiktoken_like() -> Tiktoken:
    """The byte-level tokens of ``qwen_like``, as bytes."""
    tokens = sorted({text for text in bytes_of(qwen_like()) if text})
    return Tiktoken(tokens, eos_token="<|endoftext|>")


def bytes_of(tokenizer: Any) -> list[bytes]:
    """The tokens of the two kinds that models have, by the tables of transformers; to compare."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    places = {character: byte for byte, character in bytes_to_unicode().items()}
    special, sentences = set(tokenizer.all_special_tokens), "▁" in tokenizer.get_vocab()

    def one(token: str) -> bytes:
        if token in special:
            return b""
        if sentences:
            return bytes([HEX.index(token)]) if token in HEX else token.replace("▁", " ").encode()
        known = set(token) <= set(places)
        return bytes(places[character] for character in token) if known else token.encode()

    return [one(token) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
