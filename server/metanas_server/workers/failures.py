"""Errors on their way through the pipe: data, never pickled exceptions.

An exception is pickled as its class and its arguments. A subclass with another constructor cannot
be read back from that, and the reader of the pipe would fail. So a worker process sends the name of
the nearest class in `KINDS`, the reason and the text.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from metanas import errors as core
from metanas.errors import InvalidInput, MetanasError, Violation
from metanas_server import errors as service

LOG = logging.getLogger(__name__)

KINDS: Mapping[str, type[MetanasError]] = {
    name: kind
    for module in (core, service)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, MetanasError)
}
"""The classes of both trees; their constructors differ."""


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

    def error(self) -> MetanasError:
        """Make the error again, as the nearest class in `KINDS`."""
        if self.violations:
            return InvalidInput(self.violations, self.omitted)
        kind = KINDS[self.kind]
        error = kind.__new__(kind)  # the front reads its reason and message only
        error.reason, error.message = self.reason, self.message
        return error


def failed(error: MetanasError) -> Failed:
    """Describe an error as data, without the arguments of its constructor."""
    violations: tuple[Violation, ...] = getattr(error, "violations", ())
    # an extension's subclass of InvalidInput may have no violations
    known = set(KINDS.values()) - ({InvalidInput} if not violations else set())
    return Failed(
        kind=next(each.__name__ for each in type(error).__mro__ if each in known),
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
