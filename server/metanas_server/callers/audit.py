"""The audit log: one JSON line for each call that changes something, download and refusal.

```
{"time": "2026-11-29T12:00:00.000+00:00", "caller": "workshop", "address": "ipv4:10.0.0.7:4242",
 "call": "ModelService/DownloadModel", "resource": "models/0123456789abcdef", "result": "OK"}
```

`result` is OK, CANCELLED if the caller left, or the reason of a refusal. `caller` is empty if no
token was valid. The line of `UpdateModel` has a "change", for instance {"pinned": true}.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metanas_server.errors import StartError

LOG = logging.getLogger(__name__)
AUDITED = ("Create", "Cancel", "Update", "Delete", "Download")
"""Starts of the methods whose successful calls are logged; refusals are logged of all methods."""
MAX_RESOURCE = 256  # characters; a request can name anything
OK = "OK"


class AuditLog:
    """Append lines to a file, which is opened for each line: another program may move it away."""

    def __init__(self, path: Path) -> None:
        """Create the file if it is missing.

        Raises:
            StartError: AUDIT_NOT_WRITABLE.
        """
        self._path = path
        try:
            self._append("")
        except OSError as error:
            message = f"--audit-log {path} cannot be written: {error.strerror}; give another file"
            raise StartError("AUDIT_NOT_WRITABLE", message) from error

    def write(
        self,
        *,
        caller: str,
        address: str,
        method: str,
        resource: str,
        result: str,
        change: Mapping[str, Any] | None = None,
    ) -> None:
        """Append the line of a call, if it belongs into the log.

        A line that cannot be written goes to the server's log instead, and the call goes on.

        method: the full name, as gRPC has it.
        change: the fields that a change of a model has set; None for other calls.
        """
        service, _, name = method.rpartition("/")
        if result == OK and not name.startswith(AUDITED):
            return
        fields = {} if change is None else {"change": change}
        line = json.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "caller": caller,
                "address": address,
                "call": f"{service.rpartition('.')[2]}/{name}",
                "resource": resource[:MAX_RESOURCE],
                "result": result,
                **fields,
            }
        )
        try:
            self._append(line + "\n")
        except OSError as error:
            LOG.warning("cannot write the audit log (%s): %s", error.strerror, line)

    def _append(self, text: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        handle = os.open(self._path, flags, 0o600)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
