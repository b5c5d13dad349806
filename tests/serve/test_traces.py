"""Traces: what a collector receives of requests, in the trace of the client that sent them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from servers import listening, wait

from descant.serve.protocol.limits import Limits

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 5, "temperature": 0.5}


@pytest.fixture(scope="module")
def collector() -> Iterator[Any]:
    """A collector of OTLP over HTTP; ``spans`` are those that it has received."""
    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                sent = gzip.decompress(sent)
            request = ExportTraceServiceRequest.FromString(sent)
            assert self.path == "/v1/traces"
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.spans = spans
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes, by their names."""
    values = ((each.key, each.value) for each in span.attributes)
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values}


def test_a_request_is_a_span_of_its_clients_trace(collector, run_file) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    limits = Limits(slots=2, max_model_len=64)
    with listening(run_file, limits, otlp_traces_endpoint=url) as served:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        path = f"{served.url}/v1/completions"
        answer = httpx.post(path, json=BODY, headers=headers, timeout=60).json()
        streamed = {**BODY, "stream": True, "n": 2}
        with httpx.stream("POST", path, json=streamed, timeout=60) as response:
            assert response.read()
        assert httpx.post(path, json={**BODY, "model": "nobody"}).status_code == 404
        httpx.get(f"{served.url}/health")
    wait(lambda: sum(span.name == "llm_request" for span in collector.spans) == 3)
    plain, stream, refused = (span for span in collector.spans if span.name == "llm_request")
    own = attributes(plain)
    assert plain.trace_id.hex() == TRACE and stream.trace_id.hex() != TRACE
    usage = answer["usage"]
    for name in ("prompt_tokens", "completion_tokens"):
        assert own[f"gen_ai.usage.{name}"] == usage[name]
    assert own["gen_ai.response.model"] == "base" and own["gen_ai.request.temperature"] == 0.5
    assert 0 < own["gen_ai.latency.time_to_first_token"] <= own["gen_ai.latency.e2e"]
    assert attributes(stream)["gen_ai.usage.num_sequences"] == 2
    assert [event.name for event in refused.events] == ["exception"]
    assert "gen_ai.latency.time_to_first_token" not in attributes(refused)
    http = [span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
    assert len(http) == 3  # none of /health
    parents = {span.span_id for span in http}
    assert {plain.parent_span_id, stream.parent_span_id, refused.parent_span_id} == parents
    assert http[0].parent_span_id.hex() == PARENT
