"""Attention by live lengths in every architecture: the same as alone, or by masks and it says why.

The kernels' plain torch versions run here; that the kernels are these is shown in
``tests/models/kernels``.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import tiny_architectures as families
import torch
from plain_varlen import documented
from test_architectures import EXACT, OLD, here, judged_by_rows, judges, said_by_rows
from torch.nn.attention import varlen

from descant.models.cache.live import LiveAttention
from descant.models.kernels.chunk_varlen import why_not_varlen
from descant.models.lanes.transformers_lane import TransformersLane
from descant.models.layers.fused_layers import FusedLayers

live_file = importlib.import_module("descant.models.cache.live")
lane_file = importlib.import_module("descant.models.lanes.prefill")


@pytest.fixture
def live(monkeypatch) -> list[TransformersLane]:
    """Lanes do as on a GPU, where keys in float32 could be read in chunks."""
    made: list[TransformersLane] = []
    init = TransformersLane.__init__

    def on_gpu(self: Any, *arguments: Any, **settings: Any) -> None:
        init(self, *arguments, **settings)
        self.exact_length, self.live = False, LiveAttention(torch.device("cuda"), self.dtype)
        self.fused = FusedLayers(self.model, torch.device("cuda"), self.adapters)
        self.footprint()  # which considers what the model asks for
        self.page_size = 0 if self.live.why_masked else PAGE
        made.append(self)

    def any_dtype(size: int, value_size: int, dtype: Any, capability: Any) -> str | None:
        return why_not_varlen(size, value_size, torch.bfloat16, capability)

    monkeypatch.setattr(TransformersLane, "__init__", on_gpu)
    monkeypatch.setattr(live_file, "why_not_varlen", any_dtype)
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    monkeypatch.setattr(lane_file, "CHUNK", 24)
    return made


PAGE = 8  # so that texts have several
COPIES, CHANGES = "it copies keys or values", "its code changes masks"
FUSED = ("llama", "mistral", "qwen2", "qwen3")
CODE = "its attention is not torch's scaled dot products"
MASKED = {
    **dict.fromkeys(("bloom", "codegen", "gemma2", "gpt_oss", "gptj", "jetmoe", "mpt"), CODE),
    **dict.fromkeys(("falcon", "falcon (ALiBi)", "falcon (grouped)", "vaultgemma", "xglm"), CODE),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "longcat_flash", "minicpm3", "youtu"), COPIES),
    **dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa"), CHANGES),
    "hy_v4": CODE,
    "llama (eager)": CODE,
    "llama4_text": "its masks are neither causal nor sliding windows",
    "diffllama": COPIES,
}


@pytest.mark.parametrize("family", here)
def test_rows_say_by_live_lengths_what_the_model_says_alone(family, live) -> None:
    difference, lane = said_by_rows(families.model(family))
    assert difference < EXACT
    if family in MASKED:
        why = lane.live.why_masked
        assert why is not None and (OLD or why.startswith(MASKED[family]))
    elif not OLD:
        assert (lane.live.why_masked, lane.live.why_chunks_masked) == (None, None)
        is_fused = families.model_type(family) in FUSED
        assert (lane.fused.why_plain is None) == is_fused, lane.fused.why_plain


@pytest.mark.parametrize("family", judges)
def test_candidates_are_judged_by_live_lengths_as_alone(family, live) -> None:
    assert judged_by_rows(families.model(family, reward=True), reads_all=False) < EXACT
