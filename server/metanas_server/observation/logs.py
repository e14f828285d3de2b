"""The log of the front and of the worker processes: lines of text or JSON, on standard error."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from metanas_server.observation.spans import TRACE, trace_fields

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the call that the present task serves; empty in other tasks."""
_OF_EACH_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def configure(level: str, style: str) -> None:
    """Send the log of this process to standard error.

    level: the least severe level, in lower case.
    style: "text" or "json".
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its lines are for its developers
    if level != "debug":  # it writes a line for each attempt to reach a collector
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


class JsonLines(logging.Formatter):
    """Write a record as one line of JSON, with the fields that were passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if REQUEST_ID.get():
            entry["request_id"] = REQUEST_ID.get()
        entry |= trace_fields(TRACE.get())
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        given = vars(record).items()
        extra = {name: value for name, value in given if name not in _OF_EACH_RECORD}
        return json.dumps(entry | extra, default=str)
