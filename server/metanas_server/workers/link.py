"""The way between the front and a running worker: one interface for pipes and Ray actors.

The messages of both are those of `metanas_server.workers.protocol`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from metanas_server.workers.protocol import FromWorker, Setup, ToWorker


class Channel(Protocol):
    """The worker's end. A pipe's `Connection` is one."""

    def poll(self, seconds: float, /) -> bool:
        """Wait for a message, at most so long; return True if there is one."""

    def recv(self) -> Any:
        """Wait for a message and return it.

        Raises:
            EOFError, OSError: the front has ended.
        """

    def send(self, message: FromWorker, /) -> None:
        """Send a message.

        Raises:
            OSError: the front has ended.
        """


@dataclass(frozen=True)
class Died:
    """The end of a worker.

    by_job: one of its jobs may be the cause; False if the way to the worker broke.
    """

    reason: str = "the worker process died"
    by_job: bool = True


Deliver = Callable[[FromWorker | Died], None]
"""Take a message of a worker, in the event loop's thread; `Died` is the last one."""


class Link(Protocol):
    """The front's end. Call the methods from the event loop's thread."""

    def send(self, message: ToWorker, /) -> None:
        """Send a message, without waiting."""

    def kill(self) -> None:
        """Kill the worker; `Died` is delivered when it has ended."""

    async def close(self) -> None:
        """Free the resources of a worker that was killed or has died."""


class Launcher(Protocol):
    """Start workers.

    hint: possible cause of a worker that does not start in time; empty without one.
    """

    hint: str

    async def launch(self, setup: Setup, deliver: Deliver, /) -> Link:
        """Start a worker; its first message is `Started`.

        Raises:
            MetanasError, OSError: there is no worker.
        """

    async def close(self) -> None:
        """Free all resources; there is no worker any more."""
