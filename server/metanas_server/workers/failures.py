"""Errors on their way through the pipe: data, never pickled exceptions.

An exception is pickled as its class and its arguments. A subclass with another constructor cannot
be read back from that, and the reader of the pipe would fail. So a worker process sends the name of
the nearest class that the front knows, the reason and the text.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from metanas import errors as core
from metanas.errors import InvalidInput, MetanasError, Violation
from metanas_server import errors as service
from metanas_server.errors import ServiceError

LOG = logging.getLogger(__name__)

WITH_REASON: Mapping[str, type[MetanasError | ServiceError]] = {
    kind.__name__: kind
    for kind in (
        core.CheckpointError,
        core.DatasetError,
        core.MetanasError,
        service.StartError,
        service.StoreError,
        service.WorkerFailed,
        service.ServiceError,
    )
}
"""Classes that are made of a reason and a message."""
WITH_MESSAGE: Mapping[
    str, type[core.Cancelled | core.Diverged | core.OutOfMemory | core.ExportMismatch]
] = {
    kind.__name__: kind
    for kind in (core.Cancelled, core.Diverged, core.OutOfMemory, core.ExportMismatch)
}
"""Classes that are made of a message."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An error as data: the nearest known class, and its reason and message.

    `violations` and `omitted` are those of `InvalidInput`.
    """

    kind: str
    reason: str
    message: str
    violations: tuple[Violation, ...] = ()
    omitted: int = 0

    def error(self) -> MetanasError | ServiceError:
        """Make the error again, as the nearest class that the front knows."""
        if self.violations:
            return InvalidInput(self.violations, self.omitted)
        if self.kind in WITH_MESSAGE:
            return WITH_MESSAGE[self.kind](self.message)
        return WITH_REASON[self.kind](self.reason, self.message)


def failed(error: MetanasError | ServiceError) -> Failed:
    """Describe an error as data, whatever its constructor takes."""
    violations: tuple[Violation, ...] = getattr(error, "violations", ())
    known = WITH_REASON.keys() | WITH_MESSAGE.keys()
    kind = next(each.__name__ for each in type(error).__mro__ if each.__name__ in known)
    return Failed(
        kind=kind,
        reason=str(getattr(error, "reason", "INTERNAL")),
        message=_text(error),
        violations=violations,
        omitted=getattr(error, "omitted", 0),
    )


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # an extension's error may not be able to describe itself
        LOG.exception("an error of class %s has no text", type(error).__name__)
        return f"an error of class {type(error).__name__} without a text"
