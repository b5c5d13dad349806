"""The one tokenizer of all demo models, and the layout of a conversation in token ids.

Everything that turns the corpus into ids is here, so that training, evaluation and the shipped
chat template cannot disagree. It must not know about models or losses.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from descant.demo import CHAT_TEMPLATE, TEMPLATE

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY = 1024
MAX_LENGTH = 512


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that prepends `<s>` and never appends `</s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (PAD, BOS, EOS, *ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def prompt_text(request: str | None, system: str = "") -> str:
    """Lay out what comes before a response; bare text (`request` None) has nothing before it."""
    if request is None:
        return ""
    before = f"<|system|>\n{system}\n" if system else ""
    return before + TEMPLATE.format(prompt=request)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, request: str | None, system: str = ""
) -> list[int]:
    """Return the ids before a response, from `<s>` on."""
    return list(tokenizer(prompt_text(request, system))["input_ids"])


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a response, closed by `</s>`."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
