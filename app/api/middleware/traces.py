"""OpenTelemetry traces: a span for each request, and below it queue, prefill and decode of each answer.

Off unless `OVERTONE_OTEL_ENDPOINT` names a collector; needs the extra `otel`. Spans follow the semantic conventions
for HTTP servers (https://opentelemetry.io/docs/specs/semconv/http); a `traceparent` that the client sends is continued.
"""

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.request import Done, Failed, LoRAWeight
from app.errors import BadRequest

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_MS = 1_000_000  # ns


class Traces:
    """The tracer of one app; `close` sends what is still held. Raises BadRequest without the extra."""

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise BadRequest("OVERTONE_OTEL_ENDPOINT needs OpenTelemetry: pip install 'overtone[otel]'.") from None
        self._provider = TracerProvider(resource=Resource.create({"service.name": "overtone"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self.tracer: Tracer = self._provider.get_tracer("overtone")

    def close(self) -> None:
        """Block until the collector has all spans, or does not answer."""
        self._provider.shutdown()


class RequestTrace:
    """The span of one HTTP request, to which answers add their phases once they are known."""

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        self._tracer = tracer
        self._span = span

    def answered(self, shares: tuple[LoRAWeight, ...], event: Done | Failed) -> None:
        """Add the engine's phases of one answer as spans that have just ended."""
        from opentelemetry.trace import StatusCode, set_span_in_context

        adapters = ",".join(share.adapter.uid for share in shares) or "base"
        if isinstance(event, Failed):
            self._span.add_event("failed", {"overtone.adapter": adapters, "error.type": event.error.code})
            self._span.set_status(StatusCode.ERROR, event.error.code)
            return
        timings = event.timings
        begun = time.time_ns() - int(timings.total * _MS)
        context = set_span_in_context(self._span)
        facts = {
            "overtone.adapter": adapters,
            "overtone.finish_reason": event.finish_reason,
            "gen_ai.usage.input_tokens": event.prompt_tokens,
            "gen_ai.usage.output_tokens": event.completion_tokens,
        }
        phases = (
            ("queue", 0.0, timings.queue),
            ("prefill", timings.queue, timings.ttft),
            ("decode", timings.ttft, timings.total),
        )
        for name, start, end in phases:
            phase = self._tracer.start_span(name, context, start_time=begun + int(start * _MS), attributes=facts)
            phase.end(begun + int(end * _MS))


CURRENT: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)


class TraceRequests:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._tracer = traces.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        method = scope["method"]
        facts = {
            "http.request.method": method,
            "url.path": scope["path"],
            "overtone.request_id": scope.get("state", {}).get("request_id", ""),
        }
        with self._tracer.start_as_current_span(method, parent, SpanKind.SERVER, facts) as span:
            CURRENT.set(RequestTrace(self._tracer, span))

            async def watching_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                    if route := getattr(scope.get("route"), "path", None):
                        span.update_name(f"{method} {route}")
                        span.set_attribute("http.route", route)
                await send(message)

            await self._app(scope, receive, watching_send)
