"""The metrics of a server, for Prometheus to read at /metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..protocol.messages import StepCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one server, in a registry of its own; the help texts say what each counts."""

    def __init__(self, slots: int) -> None:
        self._registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "descant", "registry": self._registry}
        steps = {**common, "unit": "seconds", "buckets": _STEPS}
        waits = {**common, "unit": "seconds", "buckets": _WAITS}
        ends = ("endpoint", "outcome")
        self.requests = Counter("requests", "Requests that have ended.", ends, **common)
        text = "Tokens of prompts that were admitted."
        self.prompt_tokens = Counter("prompt_tokens", text, **common)
        text = "Tokens of prompts that were looked up in prefix caches, in all lanes."
        self.cache_queries = Counter("prefix_cache_queries", text, **common)
        text = "Tokens of prompts that were found there."
        self.cache_hits = Counter("prefix_cache_hits", text, **common)
        text = "Rows that had to wait again, for others needed their memory or their slots."
        self.preemptions = Counter("num_preemptions", text, **common)
        texts = (
            ("num_drafts", "Batches of drafts that were verified."),
            ("num_draft_tokens", "Tokens that drafts have proposed."),
            ("num_accepted_tokens", "Of these, those that were drawn."),
        )
        self.spec_decode = [Counter(f"spec_decode_{n}", text, **common) for n, text in texts]
        self.generated_tokens = Counter("generation_tokens", "Tokens that were drawn.", **common)
        self.waiting = Gauge("num_requests_waiting", "Rows without a slot.", **common)
        self.running = Gauge("num_requests_running", "Slots that are decoding.", **common)
        Gauge("slots", "Slots that there are.", **common).set(slots)
        self.step = Histogram("step", "One step over all formulas.", **steps)
        text = "From arrival to a row's first token."
        self.first_token = Histogram("time_to_first_token", text, **waits)
        text = "From one token of a row to the next."
        self.next_token = Histogram("inter_token_latency", text, **steps)
        text = "From a request's arrival to its end."
        self.request = Histogram("e2e_request_latency", text, ("endpoint",), **waits)

    def count(self, counts: StepCounts) -> None:
        """Add the counts of a step."""
        self.waiting.set(counts.waiting)
        self.running.set(counts.running)
        self.generated_tokens.inc(counts.tokens)
        self.cache_queries.inc(counts.prefix_cache_queries)
        self.cache_hits.inc(counts.prefix_cache_hits)
        self.preemptions.inc(counts.preempted)
        for counter, more in zip(self.spec_decode, counts.spec_decode, strict=True):
            counter.inc(more)
        if counts.seconds is not None:
            self.step.observe(counts.seconds)
        for seconds in counts.first_token:
            self.first_token.observe(seconds)
        for seconds in counts.next_token:
            self.next_token.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
