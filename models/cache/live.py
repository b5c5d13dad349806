"""Which forwards of a lane attend by live lengths, and the proof of it on the first real input."""

from __future__ import annotations

import logging

import torch

from ..kernels.chunk_varlen import why_not_varlen
from ..kernels.gpu import why_disabled
from ..kernels.live_attention import why_not
from .survey import Survey

_log = logging.getLogger("descant")
QUERIES = 64  # of one row in a forward; with more, a mask costs less than reading keys again
# How far the two kinds of attention may be apart, as a share of the largest output.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}


class LiveAttention:
    """What one lane's forwards can do without a mask.

    Attributes:
        why_masked: why steps go by masks, or None; of a CPU, always one.
        why_chunks_masked: the same of prompts that are read in chunks.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype, on_gpu = dtype, device.type == "cuda"
        asked = on_gpu and torch.cuda.is_available()
        self._capability = torch.cuda.get_device_capability(device) if asked else None
        self.why_masked = why_disabled("attention") if on_gpu else "it is not on a GPU"
        self.why_chunks_masked = self.why_masked
        self._proven: set[bool] = set()

    @property
    def takes_chunks(self) -> bool:
        """Whether chunks of prompts are read without a mask."""
        return self.why_chunks_masked is None

    def takes(self, queries: int) -> bool:
        """Whether a forward of so many queries per row attends by live lengths."""
        return self.why_masked is None and queries <= QUERIES

    def consider(self, survey: Survey) -> None:
        """Take note of what the model asks for, before its first forward."""
        why = survey.why_masked()
        reasons, chunk_reasons = [self.why_masked, why], [self.why_chunks_masked, why]
        for head_size, value_size in dict.fromkeys(call[:2] for call in survey.calls):
            layer = head_size, value_size, self._dtype, self._capability
            reasons.append(why_not(*layer))
            chunk_reasons.append(why_not_varlen(*layer))
        self.why_masked = next(filter(None, reasons), None)
        self.why_chunks_masked = next(filter(None, chunk_reasons), None)

    def go_by_masks(self, why: str) -> None:
        """Attend by masks, whatever the model asks for."""
        self.why_masked = self.why_masked or why
        self.why_chunks_masked = self.why_chunks_masked or why

    def first(self, chunk: bool) -> Survey | None:
        """A survey where a forward is the first of its kind, which computes attention both ways."""
        return None if chunk in self._proven else Survey()

    def judge(self, survey: Survey, chunk: bool, model: str) -> None:
        """Take the kernel for what follows, or the mask: by what the first forward gave."""
        why, share = survey.why_masked(), survey.deviation()
        if why is None and share > TOLERANCE.get(self._dtype, 1e-3):
            why = f"its kernel is {share:.2g} off"
        if why is None:
            self._proven.add(chunk)
            return
        if chunk:
            self.why_chunks_masked = why
        else:
            self.why_masked = why
        kind = "prompts" if chunk else "steps"
        cure = "please report this with the output of `descant doctor --gpu`"
        _log.warning("%s: %s go on with masks, for %s; %s", model, kind, why, cure)
