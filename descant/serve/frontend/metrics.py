"""The metrics of a server, for Prometheus to read at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..protocol.messages import StepCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one server, in a registry of its own; the help texts say what each counts."""

    def __init__(self, slots: int) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"descant_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"descant_{name}", help, registry=registry)

        def seconds(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            name = f"descant_{name}_seconds"
            return Histogram(name, help, labels, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Requests that have ended.", "endpoint", "outcome")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts that were admitted.")
        self.generated_tokens = counter("generated_tokens", "Tokens that were drawn.")
        self.waiting = gauge("rows_waiting", "Rows without a slot.")
        self.running = gauge("slots_in_use", "Slots that are decoding.")
        gauge("slots", "Slots that there are.").set(slots)
        self.step = seconds("step", "One step over all formulas.", _STEPS)
        self.first_token = seconds(
            "time_to_first_token", "From arrival to a row's first token.", _WAITS
        )
        self.next_token = seconds(
            "time_per_output_token", "From one token of a row to the next.", _STEPS
        )
        self.request = seconds(
            "request", "From a request's arrival to its end.", _WAITS, "endpoint"
        )

    def count(self, counts: StepCounts) -> None:
        """Add the counts of a step."""
        self.waiting.set(counts.waiting)
        self.running.set(counts.running)
        self.generated_tokens.inc(counts.tokens)
        steps = [] if counts.seconds is None else [counts.seconds]
        for histogram, values in (
            (self.step, steps),
            (self.first_token, counts.first_token),
            (self.next_token, counts.next_token),
        ):
            for value in values:
                histogram.observe(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
