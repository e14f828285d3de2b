"""Observe each call, over gRPC and HTTP: metrics, the access log and traces.

A call has a request id: that of its metadata or header `x-request-id`, or else a new one.
"""

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metanas_server.observation.logs import REQUEST_ID
from metanas_server.observation.metrics import CallMetrics, Metrics
from metanas_server.observation.spans import TRACE, TRACE_FORM

if TYPE_CHECKING:
    from metanas_server.observation.traces import CallSpan, Traces

LOG = logging.getLogger("metanas_server.access")
REQUEST_ID_KEY = "x-request-id"
FAULTS = ("DATA_LOSS", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN")
"""Status codes of gRPC of which the server is the cause."""
REQUEST_ID_FORM = re.compile(r"[!-~]{1,128}")


@dataclass(kw_only=True)
class Call:
    """A call over gRPC or HTTP; its fields have their final values when it ends.

    method: the method of gRPC, or the route of HTTP. There are few of them.
    sent_id: the request id that the caller has sent; it can be anything.
    sent_trace: the trace context that the caller has sent; it can be anything.
    attributes: of its span.
    code: the status; at first that of a caller who leaves.
    code_key: the attribute of the span for the status.
    reason: the reason of a refusal.
    caller: for the log, the name of the caller's token, or its address.
    token: the name of its token; empty if it has none.
    is_probe: True for health checks, which are neither logged nor traced.
    """

    method: str
    sent_id: str
    sent_trace: str
    attributes: Mapping[str, str]
    code: str
    code_key: str
    reason: str = ""
    caller: str = ""
    token: str = ""
    is_probe: bool = False

    @property
    def is_fault(self) -> bool:
        """True if the server is the cause of the refusal, by the status of gRPC or of HTTP."""
        return self.code in FAULTS or self.code.startswith("5")


class CallObserver:
    """Count the calls of one kind, log them and trace them."""

    def __init__(
        self, metrics: Metrics, kind: CallMetrics, *, log: bool, traces: "Traces | None"
    ) -> None:
        """Count calls in `kind` and their refusals in `metrics`; `log` adds the access log."""
        self._metrics = metrics
        self._kind = kind
        self._log = log
        self._traces = traces

    @contextmanager
    def observe(self, call: Call) -> Iterator[None]:
        """Observe a call from the entry to the exit."""
        known = REQUEST_ID_FORM.fullmatch(call.sent_id)
        # of this task, which ends with the call
        REQUEST_ID.set(call.sent_id if known else secrets.token_hex(8))
        span = self._begin_span(call)
        start = time.perf_counter()
        in_progress = self._kind.in_progress.labels(call.method)
        in_progress.inc()
        try:
            yield
        finally:
            in_progress.dec()
            seconds = time.perf_counter() - start
            if call.reason:
                self._metrics.refusal(call.method, call.reason, call.token)
            self._kind.finished(call.method, call.code, seconds)
            if span is not None:
                span.end({call.code_key: call.code}, call.reason, is_fault=call.is_fault)
            if self._log and not call.is_probe:
                _write(call, seconds)

    def _begin_span(self, call: Call) -> "CallSpan | None":
        """Begin the span of a call, and set the trace context of what it begins."""
        sent = call.sent_trace if TRACE_FORM.fullmatch(call.sent_trace) else ""
        if self._traces is None or call.is_probe:
            TRACE.set(sent)
            return None
        span = self._traces.begin(call.method, sent, call.attributes)
        TRACE.set(span.context)
        return span


def _write(call: Call, seconds: float) -> None:
    reason = call.reason and f" ({call.reason})"
    text = f"{call.method} {call.code}{reason} {seconds:.3f} s, {call.caller}"
    fields = {"method": call.method, "code": call.code, "seconds": round(seconds, 6)}
    fields |= {"caller": call.caller} | ({"reason": call.reason} if call.reason else {})
    LOG.info("%s, request %s", text, REQUEST_ID.get(), extra=fields)
