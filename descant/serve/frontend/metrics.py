"""What the server counts, for Prometheus: read at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..protocol.messages import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meters:
    """The meters of one server, in a registry of its own.

    Attributes:
        requests: by endpoint and outcome.
        prompt_tokens: tokens of prompts that were admitted.
        generated_tokens: tokens that were drawn.
        waiting: rows without a slot.
        in_use: slots that are decoding.
        step: seconds of a step over all formulas.
        first_token: seconds from a request's arrival to a row's first token.
        next_token: seconds from one token of a row to the next.
        whole: seconds of a request.
    """

    def __init__(self, slots: int) -> None:
        self._registry = one = CollectorRegistry()
        self.requests = Counter(
            "descant_requests", "Requests that have ended.", ("endpoint", "outcome"), registry=one
        )
        self.prompt_tokens = Counter(
            "descant_prompt_tokens", "Tokens of prompts that were admitted.", registry=one
        )
        self.generated_tokens = Counter(
            "descant_generated_tokens", "Tokens that were drawn.", registry=one
        )
        self.waiting = Gauge("descant_rows_waiting", "Rows without a slot.", registry=one)
        self.in_use = Gauge("descant_slots_in_use", "Slots that are decoding.", registry=one)
        Gauge("descant_slots", "Slots that there are.", registry=one).set(slots)
        self.step = Histogram(
            "descant_step_seconds", "One step over all formulas.", buckets=_STEPS, registry=one
        )
        self.first_token = Histogram(
            "descant_time_to_first_token_seconds", "From arrival to a row's first token.",
            buckets=_WAITS, registry=one,
        )  # fmt: skip
        self.next_token = Histogram(
            "descant_time_per_output_token_seconds", "From one token of a row to the next.",
            buckets=_STEPS, registry=one,
        )  # fmt: skip
        self.whole = Histogram(
            "descant_request_seconds", "From a request's arrival to its end.", ("endpoint",),
            buckets=_WAITS, registry=one,
        )  # fmt: skip

    def count(self, counts: Counts) -> None:
        """Take what was counted of a step."""
        self.waiting.set(counts.waiting)
        self.in_use.set(counts.in_use)
        if counts.step is not None:
            self.step.observe(counts.step)
        self.generated_tokens.inc(counts.tokens)
        for meter, values in ((self.first_token, counts.first), (self.next_token, counts.between)):
            for seconds in values:
                meter.observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
