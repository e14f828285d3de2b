"""A collector of OpenTelemetry: a real receiver of OTLP over gRPC, in this process."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECONDS = 120


class Received:
    """A span as it has arrived."""

    def __init__(self, service: str, span: Span) -> None:
        self.service = service
        self.span = span
        self.name = span.name
        self.trace, self.id, self.parent = (
            raw.hex() for raw in (span.trace_id, span.span_id, span.parent_span_id)
        )
        self.attributes = {
            each.key: each.value.string_value or each.value.int_value for each in span.attributes
        }

    def __repr__(self) -> str:
        return f"{self.service}: {self.name} {self.attributes}"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keep all spans."""

    def __init__(self) -> None:
        self._spans = list[Received]()
        self.port = 0
        self._reserved = socket.socket()

    def reserve(self) -> None:
        """Choose a port, and keep it from others until `listening`."""
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(  # noqa: N802 (name of the contract)
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for group in request.resource_spans:
            names = {each.key: each.value.string_value for each in group.resource.attributes}
            for scope in group.scope_spans:
                self._spans += [Received(names["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def until(self, holds: Callable[[Sequence[Received]], bool]) -> list[Received]:
        """Return the spans as soon as a condition holds for them."""
        deadline = time.monotonic() + SECONDS
        while not holds(spans := list(self._spans)):
            assert time.monotonic() < deadline, f"the condition never held: {spans}"
            time.sleep(0.02)
        return spans

    def ended(self, adaptation: str) -> tuple[Received, list[Received]]:
        """Return the span of an adaptation that has ended, and all spans."""

        def of(spans: Sequence[Received]) -> list[Received]:
            id_ = adaptation.partition("/")[2]
            return [each for each in spans if each.attributes.get("metanas.adaptation") == id_]

        spans = self.until(lambda now: len(of(now)) == 1)
        return of(spans)[0], spans

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take spans from the entry to the exit."""
        self._reserved.close()
        server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait()


def tree(root: Received, spans: Sequence[Received]) -> dict[str, Any]:
    """Return the names of the spans below a span, each with those below it."""
    below = [each for each in spans if each.trace == root.trace and each.parent == root.id]
    return {each.name: tree(each, spans) for each in below}
