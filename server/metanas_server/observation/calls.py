"""Observe each call, over gRPC and HTTP: metrics and the access log.

A call has a request id: that of its metadata or header `x-request-id`, or else a new one.
"""

import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from metanas_server.observation.logs import REQUEST_ID
from metanas_server.observation.metrics import CallMetrics, Metrics

LOG = logging.getLogger("metanas_server.access")
REQUEST_ID_KEY = "x-request-id"
REQUEST_ID_FORM = re.compile(r"[!-~]{1,128}")


@dataclass(kw_only=True)
class Call:
    """A call; its fields have their final values when it ends.

    method: the method of gRPC, or the route of HTTP. There are few of them.
    sent_id: the request id that the caller has sent; it can be anything.
    code: the status; at first that of a caller who leaves.
    reason: the reason of a refusal.
    caller: for the log, the name of the caller's token, or its address.
    token: the name of its token; empty if it has none.
    """

    method: str
    sent_id: str
    code: str
    reason: str = ""
    caller: str = ""
    token: str = ""
    is_logged: bool = True


class CallObserver:
    """Count the calls of one kind, and log them."""

    def __init__(self, metrics: Metrics, kind: CallMetrics, *, log: bool) -> None:
        """Count calls in `kind` and their refusals in `metrics`; `log` adds the access log."""
        self._metrics = metrics
        self._kind = kind
        self._log = log

    @contextmanager
    def observe(self, call: Call) -> Iterator[None]:
        """Observe a call from the entry to the exit."""
        known = REQUEST_ID_FORM.fullmatch(call.sent_id)
        # of this task, which ends with the call
        REQUEST_ID.set(call.sent_id if known else secrets.token_hex(8))
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
            if self._log and call.is_logged:
                _write(call, seconds)


def _write(call: Call, seconds: float) -> None:
    reason = call.reason and f" ({call.reason})"
    text = f"{call.method} {call.code}{reason} {seconds:.3f} s, {call.caller}"
    fields = {"method": call.method, "code": call.code, "seconds": round(seconds, 6)}
    fields |= {"caller": call.caller} | ({"reason": call.reason} if call.reason else {})
    LOG.info("%s, request %s", text, REQUEST_ID.get(), extra=fields)
