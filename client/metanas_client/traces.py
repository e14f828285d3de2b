"""Spans of calls, where this process has a tracer provider of OpenTelemetry."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

Metadata = Sequence[tuple[str, str]]


@contextmanager
def traced(method: str, metadata: Metadata) -> Iterator[Metadata]:
    """Run a call in a span; yields the metadata to send, with the context of the span.

    A process without OpenTelemetry does not import it, and one without a provider makes no spans.

    method: the full name: "metanas.v1.ModelService/GetModel".
    """
    if "opentelemetry.trace" not in sys.modules:
        yield metadata
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    tracer = trace.get_tracer("metanas_client")
    span = tracer.start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes)
    sent: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(sent, trace.set_span_in_context(span))
    try:
        yield (*metadata, *sent.items())
    except grpc.aio.AioRpcError as error:
        span.set_attribute("rpc.response.status_code", error.code().name)
        span.set_status(trace.Status(trace.StatusCode.ERROR))
        raise
    finally:
        span.end()
