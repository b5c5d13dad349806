"""A mixture of SmolLM2 and Gemma 3, whose tokens differ, against the rule from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pytest
import torch
import vocabularies
from plain_transformers import PlainModel, assert_best
from torch import Tensor

import descant

PROMPTS = [
    "The capital of France is",
    "1995, 1996, 1997, 1998, 1999, 2000, 2001,",
    "été, 你好 🏴‍☠️, été, 你好 🏴‍☠️, été, 你好 🏴‍☠️,",
    "def add(one, two):\n    return",
]
NEW = 12


class Mapped:
    """Gemma's probabilities over SmolLM2's tokens, by the bytes that both stand for."""

    def __init__(self, ours: PlainModel, other: PlainModel) -> None:
        self.ours, self.other = ours, other

    @cached_property
    def texts(self) -> list[bytes]:
        return vocabularies.bytes_of(self.ours.tokenizer)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Gemma's token for each text; strings come before bytes in brackets."""
        texts = vocabularies.bytes_of(self.other.tokenizer)
        brackets = self.other.tokenizer.convert_tokens_to_ids(vocabularies.HEX)
        found: dict[bytes, int] = {}
        for token in (*(set(range(len(texts))) - set(brackets)), *brackets):
            found.setdefault(texts[token], token)
        return found

    @cached_property
    def map(self) -> Tensor:
        """``(V,)``: for each of SmolLM2's tokens Gemma's, or -1."""
        found = torch.tensor([self.ids.get(text, -1) if text else -1 for text in self.texts])
        for role in ("unk_token_id", "bos_token_id", "eos_token_id"):
            found[getattr(self.ours.tokenizer, role)] = getattr(self.other.tokenizer, role)
        return found

    def read(self, token: int) -> list[int]:
        """How Gemma reads one of SmolLM2's tokens."""
        if self.map[token] >= 0:
            return [int(self.map[token])]
        try:
            text = self.texts[token].decode()
        except UnicodeDecodeError:
            return [self.ids[bytes([byte])] for byte in self.texts[token]]
        return list(self.other.tokenizer(text, add_special_tokens=False)["input_ids"])

    def along(self, prompt: str, answer_ids: Sequence[int]) -> Tensor:
        """``(len(answer_ids) + 1, V)``, before each token and after the last."""
        pieces = [self.read(token) for token in answer_ids]
        read = [token for piece in pieces for token in piece]
        own = self.other.along(self.other.ids(prompt), read).exp()
        places = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0)
        return torch.where(self.map >= 0, own[places][:, self.map.clamp(min=0)], 0.0)


@pytest.fixture(scope="module")
def mapped(plain_smol, plain_gem) -> Mapped:
    return Mapped(plain_smol, plain_gem)


@pytest.fixture(scope="module")
def mixture(plain_smol, plain_gem) -> Any:
    models = {
        name: {"model": side.model, "tokenizer": side.tokenizer}
        for name, side in (("smol", plain_smol), ("gem", plain_gem))
    }
    return descant.compile("mix(0.5: smol, 0.5: align(gem))", models)


def test_a_mixture_of_two_real_models(mixture, mapped) -> None:
    found = mixture.generate(PROMPTS, max_new_tokens=NEW)
    shares, longer, alone = [], 0, []
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids = one.token_ids
        own = mapped.ours.along(mapped.ours.ids(prompt), ids).exp()
        other = mapped.along(prompt, ids)
        assert_best(((own + other) / 2).log(), ids)
        alone.append([side[:-1].argmax(dim=1).tolist() == ids for side in (own, other)])
        shares.append(other[:-1].sum(dim=1))
        longer += sum(len(mapped.read(token)) > 1 for token in ids)
    assert longer and [False, False] in alone
    assert all(float(share.mean()) > 0.95 for share in (*shares[:2], shares[3]))
    mean = float(torch.cat(shares).mean())
    assert f"mapped      {mean:.1%} of align(gem)'s probability" in str(mixture.plan)
    assert all("\N{REPLACEMENT CHARACTER}" not in one.text.rstrip("\ufffd") for one in found)
    assert found[0].text.startswith(" Paris.") and found[1].text.startswith(" 2002, 2003,")
