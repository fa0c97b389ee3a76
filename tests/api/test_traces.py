"""Traces as a collector gets them, over OTLP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.api.middleware.traces import Traces
from app.errors import BadRequest
from tests.api.conftest import Running, ask

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Its address, and the bodies that came."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_span_for_each_request_with_its_phases(running: Running, collector: tuple[str, list[bytes]]) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, bodies = collector
    async with running(otel_endpoint=url) as client:
        await ask(client, adapter="alpha")
        parent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "X-Request-Id": "mine"}
        assert (await client.get("/adapters/nobody", headers=parent)).status_code == 404
    spans = [
        (span, {a.key: a.value.string_value or a.value.int_value for a in span.attributes})
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    named = {span.name: (span, facts) for span, facts in spans if span.name != "GET /ready"}
    assert set(named) == {"POST /generate", "GET /adapters/{name}", "queue", "prefill", "decode"}
    request, facts = named["POST /generate"]
    assert facts["http.response.status_code"] == 200
    for name in ("queue", "prefill", "decode"):
        span, told = named[name]
        assert span.parent_span_id == request.span_id
        assert told["overtone.adapter"] == "alpha@1"
        assert told["gen_ai.usage.output_tokens"] == 8
    queue, prefill, decode = (named[name][0] for name in ("queue", "prefill", "decode"))
    assert request.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano <= prefill.end_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano < decode.end_time_unix_nano
    assert decode.end_time_unix_nano <= request.end_time_unix_nano
    missing, facts = named["GET /adapters/{name}"]
    assert missing.trace_id.hex() == TRACE
    assert facts["overtone.request_id"] == "mine"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadRequest, match=r"overtone\[otel\]"):
        Traces("http://127.0.0.1:1")
