"""The driver process of Ray: it starts actors and carries the messages between them and the front.

Ray ends its process when it loses its cluster. So Ray runs in a process of its own, behind a pipe.
An envelope is the number of an actor and a message; the first message of the front for a number
is the `Setup`, and None kills the actor. Number 0 is the driver: it reports that it has joined the
cluster, and is told to leave it. The driver imports no torch.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from metanas.errors import ClusterError
from metanas.util.ray_cluster import join
from metanas_server.workers.checkpoint_files import digest_of, read_files
from metanas_server.workers.cluster.actor import Actor
from metanas_server.workers.environment import of_actor
from metanas_server.workers.failures import failed
from metanas_server.workers.link import Died
from metanas_server.workers.protocol import FromWorker, Order, Reload, Setup, ToWorker

REPORT_SECONDS = 10.0
"""Seconds for the cluster to report the death of an actor whose connection broke."""
CALLS = 2
"""Calls that an actor serves at the same time: one that brings messages and one that fetches."""


@dataclass(frozen=True)
class RayCopy:
    """The files of the checkpoints in Ray's object store, which brings them to a host once."""

    digest: str
    files: tuple[Any]  # the reference: Ray would read it at once if it were a field itself

    def read(self) -> Mapping[str, bytes]:
        """Return the files."""
        files: Mapping[str, bytes] = ray.get(self.files[0])
        return files


class Copies:
    """Copies of the checkpoints, made again only when the files have changed."""

    def __init__(self) -> None:
        self._last: RayCopy | None = None

    def of(self, root: Path) -> RayCopy:
        """Return a copy of the present files."""
        files = read_files(root)
        digest = digest_of(files)
        if self._last is None or self._last.digest != digest:
            self._last = RayCopy(digest, (ray.put(files),))
        return self._last


class Seat:
    """An actor and the two threads that exchange messages with it."""

    def __init__(
        self, setup: Setup, copies: Copies, deliver: Callable[[FromWorker | Died], None]
    ) -> None:
        self._copies, self._root = copies, setup.checkpoints
        self._deliver = deliver
        self._outbox: SimpleQueue[ToWorker | None] = SimpleQueue()
        self._actor: Any = (
            ray.remote(Actor)
            .options(
                num_cpus=setup.cpus,
                num_gpus=0 if setup.device == "cpu" else 1,
                max_concurrency=CALLS,
                max_restarts=0,  # the front replaces it, and counts the attempts of its jobs
                scheduling_strategy="SPREAD",
                runtime_env={"env_vars": of_actor()},
            )
            .remote(replace(setup, copy=copies.of(setup.checkpoints)))
        )
        threading.Thread(target=self._post, daemon=True).start()
        threading.Thread(target=self._collect, daemon=True).start()

    def send(self, message: ToWorker) -> None:
        """Send a message to the actor, without waiting."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Kill the actor."""
        ray.kill(self._actor)

    def _post(self) -> None:
        """Carry messages to the actor. One that cannot be carried ends the actor."""
        try:
            while (message := self._outbox.get()) is not None:
                ray.get(self._actor.post.remote(self._complete(message)))
        except Exception:  # of many classes; the other thread reports the end of the actor
            self.kill()

    def _complete(self, message: ToWorker) -> ToWorker:
        """Add the files that the host of the actor may not have; a missing one is its finding."""
        with suppress(OSError):
            if isinstance(message, Order):
                return replace(message, data=message.support.read_bytes())
            if isinstance(message, Reload):
                return Reload(self._copies.of(self._root))
        return message

    def _collect(self) -> None:
        """Carry messages to the front; the end of the actor is the last one."""
        ended = False
        while not ended:
            for message in self._next_messages():
                ended = ended or isinstance(message, Died)
                self._deliver(message)
        self._outbox.put(None)
        self.kill()

    def _next_messages(self) -> list[FromWorker | Died]:
        try:
            messages: list[FromWorker | Died] = ray.get(self._actor.collect.remote())
        except ActorUnavailableError:
            return [Died("the connection to the Ray actor broke", by_job=self._has_died())]
        except Exception as error:  # Ray raises errors of many classes
            return [Died(f"the Ray actor died ({_cause(error)})")]
        return messages

    def _has_died(self) -> bool:
        """Return True if the cluster reports in time that the actor has died."""
        latest = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < latest:
            try:
                ray.get(self._actor.collect.remote(), timeout=1.0)
            except ActorDiedError:
                return True
            except Exception:  # the cluster does not know yet
                time.sleep(0.2)
            else:
                return False
        return False


def _cause(error: Exception) -> str:
    """Shorten Ray's explanation to the line with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "because" in line]
    return (causes or lines or [type(error).__name__])[0][:200]


def main(connection: Connection, address: str | None, cpus: int) -> None:
    """Join a cluster, or start one, and serve the front until it ends."""
    os.set_inheritable(connection.fileno(), False)  # processes of Ray must not hold the pipe
    try:
        join(address, cpus)
    except ClusterError as error:
        connection.send((0, failed(error)))
        return
    connection.send((0, None))
    with suppress(EOFError, OSError):  # the front has ended
        _serve(connection)
    ray.shutdown()  # the actors end with the driver


def _serve(connection: Connection) -> None:
    seats, copies, lock = dict[int, Seat](), Copies(), threading.Lock()

    def deliver(number: int, message: FromWorker | Died) -> None:
        with lock:
            connection.send((number, message))

    while True:
        number, message = connection.recv()
        if number == 0:
            return
        if isinstance(message, Setup):
            try:
                seats[number] = Seat(message, copies, partial(deliver, number))
            except Exception as error:  # of files or of Ray: it concerns this actor only
                deliver(number, Died(f"the Ray actor was not started ({_cause(error)})"))
        elif message is None and number in seats:
            seats.pop(number).kill()
        elif number in seats:  # else it was killed
            seats[number].send(message)
