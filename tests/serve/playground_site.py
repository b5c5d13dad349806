"""The run file of the playground's server, and what its tests share.

Besides the demo models it has one whose every token is a piece of a web page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from descant.demo import models as demo
from descant.inputs.runfile import validated

HOSTILE = [
    "<script>window.broken=1</script>",
    "<img/src=x/onerror=window.broken=1>",
    "</div><b>bold</b>",
    "&lt;&amp;",
    "<svg/onload=window.broken=1>",
]
ARMS = "base + (1-a)*arm_help + a*arm_harm"
STEER = f"{ARMS} | rerank(reward_help, k=10, w=1.5)"
WORDS = "What is the best way to boil eggs?"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"


def hostile(folder: Path) -> str:
    """A checkpoint that can write nothing but markup, and never ends."""
    words = ["<unk>", "hello", *HOSTILE]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return str(folder)


def run_file(folder: Path) -> Any:
    """The run file of the server."""
    content = {
        "formulas": {"arms": ARMS, "steer": STEER, "wicked": "wicked"},
        "models": {**demo(), "wicked": {"path": hostile(folder), "dtype": "float32"}},
        "params": {"a": 0.5},
        "prompts": {"child": "You are a child."},
        "generate": {"max_new_tokens": 24, "temperature": 0.7},
    }
    return validated(content, "the test")


def column(page: Any, number: int = 0) -> Any:
    """A setting of the page."""
    return page.locator(".setting").nth(number)


def ended(page: Any) -> None:
    """Wait until nothing runs."""
    page.wait_for_selector("#stop:disabled", state="attached")


def ran(page: Any) -> list[Any]:
    """What was asked of the server to be completed."""
    return [json.loads(one.post_data) for one in page.asked if "/v1/" in one.url]
