"""Traces of requests for OpenTelemetry: a span for each, with the attributes that vLLM's have.

Nothing is traced unless ``--otlp-traces-endpoint`` says where traces go; then the context of a
client's own trace is read from its headers (W3C's ``traceparent``). The exporter sends over HTTP,
from a thread, and takes its other settings from OpenTelemetry's environment variables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...extras import require

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .streams import Stream

PATH = "/v1/traces"  # of a collector that receives OTLP over HTTP
# Names of OpenTelemetry's conventions for generative models, and vLLM's beside them.
MODEL, REQUEST, COUNT = "gen_ai.response.model", "gen_ai.request.", "gen_ai.usage."
LATENCY = "gen_ai.latency."
ASKED = ("max_tokens", "temperature", "top_p", "n")


class Traces:
    """Where spans go.

    Args:
        endpoint: of a collector, ``http://host:4318``; a path is added where it has none. None
            traces nothing.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._provider: Any = None
        if endpoint is None:
            return
        require("--otlp-traces-endpoint", "opentelemetry.sdk")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        address = endpoint.rstrip("/")
        has_path = address.partition("://")[2].count("/") > 0
        exporter = OTLPSpanExporter(endpoint=address if has_path else address + PATH)
        resource = Resource.create({"service.name": "descant", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("descant.serve", __version__)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The application with a span for each HTTP request, in the trace of its client."""
        if self._provider is None:
            return app
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        traced: ASGIApp = OpenTelemetryMiddleware(
            app, tracer_provider=self._provider, excluded_urls="health,ping,metrics,version",
            exclude_spans=["receive", "send"],
        )  # fmt: skip
        return traced

    @contextmanager
    def request(self, body: Any, stream: Stream) -> Iterator[None]:
        """A span for a request that is decoded inside of this."""
        if self._provider is None:
            yield
            return
        asked = {name: getattr(body, name, None) for name in ASKED}
        span = self._tracer.start_span("llm_request", attributes={MODEL: body.model})
        span.set_attributes({REQUEST + k: v for k, v in asked.items() if v is not None})
        try:
            yield
        except Exception as error:
            span.record_exception(error)
            raise
        finally:
            now = time.perf_counter()
            span.set_attributes({
                COUNT + "prompt_tokens": stream.prompt_tokens,
                COUNT + "completion_tokens": stream.completion_tokens,
                COUNT + "num_sequences": stream.rows,
                LATENCY + "e2e": now - stream.arrival_time,
            })  # fmt: skip
            if stream.first_token_time is not None:
                waited = stream.first_token_time - stream.arrival_time
                span.set_attribute(LATENCY + "time_to_first_token", waited)
            span.end()

    def stop(self) -> None:
        """Send what has not been sent."""
        if self._provider is not None:
            self._provider.shutdown()
