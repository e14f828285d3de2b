"""Workers as actors of a Ray cluster, started by a driver process behind a pipe."""

import asyncio
import logging
import multiprocessing
import os
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from metanas.errors import ClusterError
from metanas_server.workers.failures import Failed
from metanas_server.workers.link import Deliver, Died
from metanas_server.workers.process import Child, end_with_front
from metanas_server.workers.protocol import Setup, ToWorker

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
"""Attempts to start a cluster: 30 seconds, Ray's limit, are few on a busy machine."""
LEAVE_SECONDS = 20.0
"""Seconds for the driver to kill an actor, or to leave its cluster, before it is killed itself."""
NOT_STARTED = "CLUSTER_NOT_STARTED"
JOINED = 0
"""Number of the messages to and from the driver itself; actors count from 1."""


class RayWorkers:
    """Start actors; the driver process is started with the first one, and again after its death.

    address: of a cluster; None starts one on this host, which ends with the driver.
    cpus: CPUs of a cluster that is started.
    """

    hint = "has the Ray cluster room for each of --devices?"

    def __init__(self, address: str | None, cpus: int) -> None:
        self._address, self._cpus = address, cpus
        self._numbers = count(JOINED + 1)
        self._driver: Driver | None = None
        self._lock = asyncio.Lock()

    async def launch(self, setup: Setup, deliver: Deliver, /) -> "RayLink":
        """Start an actor where the cluster has room; it waits for room.

        Raises:
            ClusterError: CLUSTER_UNREACHABLE, CLUSTER_NOT_STARTED.
        """
        async with self._lock:
            if self._driver is None or self._driver.ended.is_set():
                await self.close()
                self._driver = await self._join(setup.start_seconds)
        return self._driver.link(next(self._numbers), setup, deliver)

    async def close(self) -> None:
        """End the driver, and a cluster that it has started."""
        if self._driver is not None:
            await self._driver.close()
            self._driver = None

    async def _join(self, patience: float, attempts: int = ATTEMPTS) -> "Driver":
        """Start a driver and wait until it has a cluster."""
        driver = Driver(self._address, self._cpus)
        try:
            async with asyncio.timeout(patience):
                await driver.joined
        except BaseException as error:
            driver.kill()
            await driver.close()
            if isinstance(error, TimeoutError):
                raise no_answer(self._address, f"not within {patience:g} s") from None
            if attempts == 1 or getattr(error, "reason", "") != NOT_STARTED:
                raise
        else:
            return driver
        return await self._join(patience, attempts - 1)


def no_answer(address: str | None, why: str) -> ClusterError:
    """Make the error of a cluster that does not answer or start."""
    if address is not None:
        message = f"no Ray cluster answered at {address}: {why}"
        return ClusterError("CLUSTER_UNREACHABLE", f"{message}; check the address and the ports")
    message = f"Ray did not start on this host: {why}"
    return ClusterError(NOT_STARTED, f"{message}; see session_latest/logs in its folder, /tmp/ray")


class Driver:
    """The driver process and the links to its actors.

    joined: has the result, or the error, of joining the cluster.
    ended: set when the process has died.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self._address = address
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self._links = dict[int, RayLink]()
        context = multiprocessing.get_context("spawn")
        connection, child_end = context.Pipe()
        process = context.Process(
            target=_enter, args=(child_end, address, cpus), name="metanas-ray-driver", daemon=True
        )
        process.start()
        child_end.close()
        self._child = Child[Any, Any](process, connection, self._deliver)

    def link(self, number: int, setup: Setup, deliver: Deliver) -> "RayLink":
        """Start an actor."""
        link = self._links[number] = RayLink(self, number, deliver)
        self.send(number, setup)
        return link

    def send(self, number: int, message: Setup | ToWorker | None) -> None:
        """Send a message to an actor; None kills it."""
        self._child.send((number, message))

    def forget(self, number: int) -> None:
        """Deliver nothing more of this actor."""
        self._links.pop(number, None)

    def kill(self) -> None:
        """Kill the process; its actors end."""
        self._child.kill()

    async def close(self) -> None:
        """Let the process leave its cluster, and end it."""
        self.send(JOINED, None)
        await self._child.close(LEAVE_SECONDS)

    def _deliver(self, envelope: tuple[int, Any] | Died) -> None:
        if isinstance(envelope, Died):
            self._end()
            return
        number, message = envelope
        if number == JOINED:
            self._join(message)
        elif number in self._links:
            self._links[number].deliver(message)

    def _join(self, failure: Failed | None) -> None:
        if self.joined.done():
            return  # too late
        if failure is None:
            self.joined.set_result(None)
        elif failure.reason == NOT_STARTED:
            self.joined.set_exception(no_answer(None, failure.message))
        else:
            self.joined.set_exception(failure.error())

    def _end(self) -> None:
        self.ended.set()
        if not self.joined.done():
            self.joined.set_exception(no_answer(self._address, "the driver process died"))
        reason = "the connection to the Ray cluster was lost"
        for link in tuple(self._links.values()):
            link.deliver(Died(reason, by_job=False))


class RayLink:
    """The way to an actor, through the driver."""

    def __init__(self, driver: Driver, number: int, deliver: Deliver) -> None:
        self._driver, self._number = driver, number
        self._deliver = deliver
        self._ended = asyncio.Event()
        self._late: asyncio.TimerHandle | None = None

    def deliver(self, message: Any) -> None:
        """Hand on a message of the actor; the first `Died` is the last message."""
        if self._ended.is_set():
            return
        if isinstance(message, Died):
            self._ended.set()
            if self._late is not None:
                self._late.cancel()
        self._deliver(message)

    def send(self, message: ToWorker, /) -> None:
        """Send a message, without waiting."""
        self._driver.send(self._number, message)

    def kill(self) -> None:
        """Kill the actor; if the driver cannot do that, kill the driver."""
        self._driver.send(self._number, None)
        if not self._ended.is_set() and self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(LEAVE_SECONDS, self._driver.kill)

    async def close(self) -> None:
        """Wait for the end of the actor."""
        await self._ended.wait()
        self._driver.forget(self._number)


def _enter(connection: Connection, address: str | None, cpus: int) -> None:
    """Run the driver; the entry point of its process."""
    os.setsid()  # Ctrl-C does not reach Ray
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # Ray prints much
        os.dup2(nothing, descriptor)
    end_with_front(LEAVE_SECONDS)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # whatever the environment says
    # Imported here, in the driver process: Ray ends its process when it loses its cluster.
    from metanas_server.workers.cluster.driver import main

    main(connection, address, cpus)
