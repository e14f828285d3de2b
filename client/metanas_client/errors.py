"""Errors of the client. Errors of data sets are `metanas_data.errors.DatasetError`.

```
ClientError                reason (UPPER_SNAKE, stable), message; str(error) is for people
├── InvalidInput           the input is wrong; violations: where, why, and in which file
├── Unavailable            no server answers at `address`
├── Refused                the server refused the call
│   ├── NotFound           no adaptation, model or checkpoint of that name
│   ├── NotAllowed         a token or certificate is missing, wrong, or not enough
│   ├── Conflict           it does not fit the present state, e.g. a request id used twice
│   ├── Busy               too much at once; retry_after: seconds, where the server says so
│   ├── TimedOut           the call took longer than its limit
│   └── ServerFault        a defect of the server, or a server of another version
├── AdaptationFailed       the adaptation failed, e.g. DIVERGED
├── AdaptationCancelled    the adaptation was cancelled
├── DownloadDamaged        the downloaded bytes differ from those announced
├── ModelFileError         a file that is no ONNX model made by MetaNAS
├── SignatureError         a model file is not signed by the given key
├── NotWritable            a result cannot be written to the given path
├── ForkedProcess          a forked process cannot use gRPC after its parent
└── MissingExtra           an optional dependency is not installed
```

`error_for` maps the canonical code and the reason of a failure to a class of this tree. No gRPC
error reaches the caller. `metanas evaluate` may also end with an `EvaluationError` of
`metanas_data.errors`, for a journal or a result file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metanas_client.text import printable
from metanas_data.errors import DatasetError as DatasetError
from metanas_data.errors import MetanasError

SHOWN_VIOLATIONS = 50
"""Most violations in the text of an error; `violations` has all of them."""


@dataclass(frozen=True)
class Violation:
    """One fault in the input: field, reason (UPPER_SNAKE), message, and the file if any."""

    field: str
    reason: str
    message: str
    source: str | None = None

    def __str__(self) -> str:
        place = self.field if self.source is None else f"{self.source} ({self.field})"
        return f"{place}: {self.message}"


class ClientError(MetanasError):
    """Root of the client's errors. `reason` is for programs, `str(error)` for people."""


class InvalidInput(ClientError):
    """The input is wrong. `violations` lists the faults and is never empty."""

    violations: tuple[Violation, ...]

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        if not self.violations:
            raise ValueError("InvalidInput needs at least one violation")
        shown = [printable(str(violation)) for violation in self.violations[:SHOWN_VIOLATIONS]]
        if len(self.violations) > SHOWN_VIOLATIONS:
            shown.append(f"and {len(self.violations) - SHOWN_VIOLATIONS} more")
        super().__init__(self.violations[0].reason, "\n".join(shown))

    @classmethod
    def single(cls, field: str, reason: str, message: str) -> "InvalidInput":
        """Make the error of one violation."""
        return cls((Violation(field, reason, message),))


class Unavailable(ClientError):
    """No server answers at `address`."""

    address: str

    def __init__(
        self,
        address: str,
        detail: str,
        advice: str = "",
        server: str = "MetaNAS server",
        unfinished: str = "",
    ) -> None:
        """Make the error; `unfinished` says how to come back to the work that was under way."""
        self.address = address
        start = (
            f"Start one with `metanas-server --listen {address}`, "
            "or name another with --server or METANAS_SERVER."
        )
        message = f"no {server} answers at {address} ({detail}). {advice or start}"
        super().__init__("UNAVAILABLE", f"{message} {unfinished}".rstrip())


class Refused(ClientError):
    """The server refused the call."""


class NotFound(Refused):
    """There is no adaptation, model or checkpoint of that name."""


class NotAllowed(Refused):
    """A token or certificate is missing, wrong, or not enough for this call."""


class Conflict(Refused):
    """The call does not fit the present state."""


class Busy(Refused):
    """The server has too much work. `retry_after` is in seconds; None if none is given."""

    retry_after: float | None

    def __init__(self, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


class TimedOut(Refused):
    """The call took longer than its limit."""


class ServerFault(Refused):
    """A defect of the server, or a server of another version."""


class AdaptationFailed(ClientError):
    """The adaptation failed; other hyper-parameters or another support set may help."""


class AdaptationCancelled(ClientError):
    """The adaptation was cancelled."""


class DownloadDamaged(ClientError):
    """The downloaded bytes differ from those that the server announced."""


class ModelFileError(ClientError):
    """A file that is no ONNX model made by MetaNAS."""


class SignatureError(ClientError):
    """A model file is not signed by the given key.

    Reasons: SIGNATURE_MISSING, SIGNATURE_MALFORMED, SIGNATURE_KEY, SIGNATURE_FILE.
    """


class NotWritable(ClientError):
    """A result cannot be written to the given path."""


class ForkedProcess(ClientError):
    """The process was forked from one that has used a client; gRPC does not work there."""

    def __init__(self, parent: int) -> None:
        super().__init__(
            "FORKED_PROCESS",
            f"process {parent} had used a client when it forked this one, where gRPC cannot work. "
            "Start processes with the method 'spawn' (multiprocessing.set_start_method).",
        )


class MissingExtra(ClientError):
    """An optional dependency is not installed; the text is the command that installs it."""

    extra: str

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        super().__init__(
            "MISSING_EXTRA",
            f"this needs the package {module!r}, which is not installed. "
            f'Install it with: pip install "metanas-client[{extra}]"',
        )


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Failure of a call or of an adaptation, as the server sent it."""

    code: str
    """Canonical name, e.g. "INVALID_ARGUMENT"."""
    reason: str
    """Stable reason; empty if the answer is not from a MetaNAS server."""
    message: str
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None


PLAIN_BY_CODE: Mapping[str, type[ClientError]] = {
    "UNKNOWN": ServerFault,
    "DEADLINE_EXCEEDED": TimedOut,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": Conflict,
    "PERMISSION_DENIED": NotAllowed,
    "FAILED_PRECONDITION": Conflict,
    "ABORTED": Conflict,
    "UNIMPLEMENTED": ServerFault,
    "INTERNAL": ServerFault,
    "DATA_LOSS": ServerFault,
    "UNAUTHENTICATED": NotAllowed,
}
"""Classes with a reason and a message only; `error_for` builds the errors of other codes."""

LISTED_BY: Mapping[str, str] = {
    "UNKNOWN_ADAPTATION": "metanas adaptations list",
    "UNKNOWN_CHECKPOINT": "metanas checkpoints",
    "UNKNOWN_MODEL": "metanas models list",
}
"""Reason of an unknown name -> the command that lists the names."""

PLAIN_BY_REASON: Mapping[str, type[ClientError]] = {
    "CANCELLED": AdaptationCancelled,
    "DIVERGED": AdaptationFailed,
}
"""Reasons that have another class than their code."""


def error_for(fault: Fault, address: str) -> ClientError:
    """Return the error for a fault. Every canonical code has one."""
    reason = fault.reason or fault.code
    if fault.reason in PLAIN_BY_REASON:
        return PLAIN_BY_REASON[fault.reason](reason, fault.message)
    match fault.code:
        case "INVALID_ARGUMENT" | "OUT_OF_RANGE":
            return InvalidInput(fault.violations or (Violation("request", reason, fault.message),))
        case "RESOURCE_EXHAUSTED":
            return Busy(reason, fault.message, fault.retry_after)
        # a MetaNAS server that is stopping sends a reason and the time of a retry
        case "UNAVAILABLE" if fault.reason:
            return Busy(reason, fault.message, fault.retry_after)
        case "CANCELLED" if fault.reason:
            return AdaptationCancelled(reason, fault.message)
        # a server that has stopped answers CANCELLED without a reason
        case "UNAVAILABLE" | "CANCELLED":
            return Unavailable(address, fault.message)
    listed = f"; `{LISTED_BY[reason]}` lists the names" if reason in LISTED_BY else ""
    message = fault.message.rstrip(".") + listed if listed else fault.message
    return PLAIN_BY_CODE.get(fault.code, ServerFault)(reason, message)
