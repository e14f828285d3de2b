"""The limits of the calls in progress, streams included."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from metanas_server.errors import Overloaded


class OpenCalls:
    """Count the calls in progress of each caller, and the health checks of each address."""

    def __init__(self, most: int, most_per_caller: int) -> None:
        """Set the most calls of all callers, and of one."""
        self._most = most
        self._most_per_caller = most_per_caller
        self._calls = Counter[str]()
        self._probes = Counter[str]()

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        """Count a call from the entry to the exit.

        Raises:
            Overloaded: CALLS_FULL.
        """
        if self._calls.total() >= self._most:
            raise Overloaded("CALLS_FULL", "too many calls are in progress; try again shortly")
        with self._hold(self._calls, caller):
            yield

    @contextmanager
    def hold_probe(self, address: str) -> Iterator[None]:
        """Count a health check, which the limit of all callers does not stop.

        Raises:
            Overloaded: CALLS_FULL.
        """
        with self._hold(self._probes, address):
            yield

    @contextmanager
    def _hold(self, counter: Counter[str], name: str) -> Iterator[None]:
        if counter[name] >= self._most_per_caller:
            message = f"you have {self._most_per_caller} calls in progress; end one of them first"
            raise Overloaded("CALLS_FULL", message)
        counter[name] += 1
        try:
            yield
        finally:
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
