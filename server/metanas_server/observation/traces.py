"""Traces by OpenTelemetry, sent to a collector. Needs the extra "otel"."""

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from metanas_server.errors import StartError
from metanas_server.observation.spans import TRACE_KEY, Span

LOG = logging.getLogger(__name__)
CLOSE_SECONDS = 2.0
"""Longest wait for a collector when the server stops."""
PROPAGATOR = TraceContextTextMapPropagator()


class Traces:
    """Send spans to a collector, in a thread of its own.

    Spans wait in a queue of limited length. Those that find it full, or no collector, are dropped.
    The variables OTEL_* set the sampling, the resource, the queue, and the headers of the exporter.
    """

    def __init__(self, url: str) -> None:
        """Prepare to send to http://HOST:PORT or https://HOST:PORT.

        Raises:
            StartError: TRACES_INVALID, a variable OTEL_* has a wrong value.
        """
        try:
            self._provider = _provider(url)
        except Exception as error:  # of another kind for each variable
            message = f"--traces cannot be used: {error}; correct the variables OTEL_*"
            raise StartError("TRACES_INVALID", message) from error
        self._tracer = self._provider.get_tracer("metanas_server")

    def begin(self, name: str, parent: str, attributes: Mapping[str, str]) -> "CallSpan":
        """Begin the span of a call.

        parent: the trace context of the caller; empty without one.
        """
        kind = trace.SpanKind.SERVER
        return CallSpan(self._tracer.start_span(name, _context(parent), kind, attributes))

    def add(self, span: Span, parent: str) -> None:
        """Add the span of finished work, with its children.

        parent: the trace context of the call that has asked for it; empty without one.
        """
        self._add(span, _context(parent))

    def _add(self, span: Span, context: Context) -> None:
        made = self._tracer.start_span(
            span.name, context, attributes=span.attributes, start_time=span.start
        )
        inside = trace.set_span_in_context(made, context)
        for child in span.children:
            self._add(child, inside)
        _end(made, span.error, span.end)

    async def close(self) -> None:
        """Send the last spans; give up after `CLOSE_SECONDS`."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_SECONDS)


class CallSpan:
    """The span of a call in progress.

    context: the trace context for what the call begins; empty if OTEL_SDK_DISABLED ends all traces.
    """

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
        self.context = carrier.get(TRACE_KEY, "")

    def end(self, attributes: Mapping[str, str | int], reason: str, *, is_fault: bool) -> None:
        """End the span.

        reason: of a refusal.
        is_fault: True if the server is the cause of the refusal.
        """
        self._span.set_attributes(attributes)
        if reason:
            self._span.set_attribute("error.type", reason)
        _end(self._span, reason if is_fault else "")


class _Exporter(SpanExporter):
    """Export spans; the log has a line when an outage of the collector begins and when it ends."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._exporter = OTLPSpanExporter(endpoint=url)
        self._reached = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        reached = result is SpanExportResult.SUCCESS
        if self._reached and not reached:
            LOG.warning(
                "the collector %s takes no traces; they are dropped until it does"
                " (--log-level debug shows why)",
                self._url,
            )
        elif reached and not self._reached:
            LOG.info("the collector %s takes traces again", self._url)
        self._reached = reached
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown(timeout_millis=0)


def _provider(url: str) -> TracerProvider:
    named = Resource({"service.name": "metanas-server"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Exporter(url)))
    return provider


def _context(parent: str) -> Context:
    return PROPAGATOR.extract({TRACE_KEY: parent}, Context())


def _end(span: trace.Span, error: str, time: int | None = None) -> None:
    if error:
        span.set_attribute("error.type", error)
        span.set_status(trace.Status(trace.StatusCode.ERROR))
    span.end(time)
