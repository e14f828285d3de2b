"""Spans of finished work, and the trace context of calls, without OpenTelemetry."""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

TRACE_KEY = "traceparent"
"""Metadata or header with the trace context of a caller (W3C Trace Context)."""
TRACE_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
TRACE: ContextVar[str] = ContextVar("trace", default="")
"""Trace context of the call that the present task serves; empty in other tasks and without one."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of finished work, from `start` to `end` in nanoseconds since 1970.

    error: the reason of its failure; empty without one.
    """

    name: str
    start: int
    end: int
    error: str = ""
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    children: tuple["Span", ...] = ()


def trace_fields(trace: str) -> dict[str, str]:
    """Return the field of a line of the log that names the trace; empty without one."""
    return {"trace_id": trace.split("-")[1]} if trace else {}
