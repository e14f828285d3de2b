"""The front's side of a worker process: start it, give it jobs, stop jobs, notice its death."""

import asyncio
import logging
import multiprocessing
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from metanas.spec.card import CheckpointCard
from metanas.spec.report import Progress
from metanas_server.errors import StartError, WorkerKilled, WorkerLost
from metanas_server.workers.failures import Failed
from metanas_server.workers.protocol import (
    Adopt,
    Ended,
    Made,
    Order,
    Ready,
    Reload,
    Reloaded,
    Setup,
    Share,
    Step,
    Stop,
)

LOG = logging.getLogger(__name__)
NO_JOB = 0  # jobs count from 1
Outbox = SimpleQueue[Order | Stop | Share | Reload | Adopt | None]
Cards = Mapping[str, CheckpointCard]


@dataclass
class Desk:
    """One job that a worker has: where its steps go, and its outcome."""

    on_progress: Callable[[Progress], None]
    made: asyncio.Future[Made]
    killer: asyncio.TimerHandle | None = None


class WorkerProcess:
    """One worker process at a time, and the jobs that it has been given.

    The process is spawned, never forked: a forked copy of grpc's and torch's threads hangs. All
    methods are called from the event loop's thread; only the pipe is read and written in others.

    ready: whether it can be given jobs.
    cards: of the checkpoints that the process holds, by name.
    heard: when it last gave a sign of life, in the event loop's time.
    ended: set when the process has died; `start` begins anew with another event.
    """

    def __init__(self, setup: Setup) -> None:
        self.ready = False
        self.cards: Cards = {}
        self.heard = 0.0
        self.ended = asyncio.Event()
        self._setup = setup
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection
        self._threads: tuple[threading.Thread, ...] = ()
        self._outbox: Outbox
        self._started: asyncio.Future[Cards]
        self._reloaded: asyncio.Future[Cards] | None = None
        self._desks = dict[int, Desk]()
        self._blamed: int | None = None
        self._share = setup.threads

    @property
    def device(self) -> str:
        """The device that it computes on."""
        return self._setup.device

    @property
    def pid(self) -> int | None:
        """The process id, None while there is no process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> Cards:
        """Start a process in place of whatever was before; returns the checkpoints it has loaded.

        Raises:
            StartError: WORKER_FAILED, it died before it was ready, or took longer than allowed.
            MetanasError, ServiceError: why it could not load the checkpoints.
        """
        await self.close()
        loop = asyncio.get_running_loop()
        self._connection, there = self._context.Pipe()
        self._outbox, self.ended, self._blamed = SimpleQueue(), asyncio.Event(), None
        self._share = self._setup.threads
        self._started = loop.create_future()
        process = self._context.Process(
            target=_enter,
            args=(there, self._setup),
            name=f"metanas-worker-{self.device}",
            daemon=True,
        )
        process.start()
        self._process = process
        there.close()  # or the end of the process would not be seen as the end of the pipe
        self._threads = (
            threading.Thread(target=_read, args=(self._connection, loop, self._deliver)),
            threading.Thread(target=_write, args=(self._connection, self._outbox)),
        )
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        late = loop.call_later(self._setup.start_seconds, self._start_is_late)
        try:
            self.cards = await self._started
        finally:
            late.cancel()
        self.ready = not self.ended.is_set()
        return self.cards

    def holds(self, name: str, digest: str) -> bool:
        """Return True if the process has this checkpoint with this digest."""
        return name in self.cards and self.cards[name].digest == digest

    async def reload(self) -> Cards:
        """Have the process load the checkpoints again, beside those in use.

        `adopt` has to follow. Jobs that have begun go on with their own checkpoint.

        A process that takes longer than `start_seconds` is killed; its jobs lose no attempt.

        Raises:
            WorkerLost: the process died.
            MetanasError, ServiceError: the checkpoints cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        self._reloaded = loop.create_future()
        self._outbox.put(Reload())
        late = loop.call_later(self._setup.start_seconds, self._kill_because_of, NO_JOB)
        try:
            return await self._reloaded
        finally:
            late.cancel()

    def adopt(self, cards: Cards | None) -> None:
        """Have the process use the checkpoints that it loaded again; None forgets them."""
        if cards is not None:
            self.cards = cards
        self._outbox.put(Adopt(cards is not None))

    def give(self, order: Order, on_progress: Callable[[Progress], None]) -> asyncio.Future[Made]:
        """Have a model made, beside whatever else the worker is at.

        The future's errors:
            WorkerLost: the process has died; `start` makes a new one.
            WorkerKilled: the process was killed because another job did not stop.
            MetanasError, ServiceError: what the worker says.
        """
        desk = Desk(on_progress, asyncio.get_running_loop().create_future())
        self._desks[order.number] = desk
        self._outbox.put(order)
        return desk.made

    def stop(self, number: int, patience: float) -> None:
        """Have a job stop between two steps; the process dies if it has not after `patience` s."""
        desk = self._desks.get(number)
        if desk is not None and desk.killer is None:
            self._outbox.put(Stop(number))
            loop = asyncio.get_running_loop()
            desk.killer = loop.call_later(patience, self._kill_because_of, number)

    def share(self, threads: int) -> None:
        """Have it compute with so many threads from its next step on."""
        if threads != self._share:
            self._share = threads
            self._outbox.put(Share(threads))

    def kill(self) -> None:
        """End the process at once; its jobs are lost."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    async def close(self) -> None:
        """End the process. It has nothing to lose: all that it makes goes through the pipe."""
        if self._process is None:
            return
        self.kill()
        await asyncio.to_thread(self._process.join)
        # The end of the process is the end of the pipe, and that of the threads that use it. Only
        # then may the pipe be closed: not under the feet of a reader.
        self._outbox.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._connection.close()
        self._process.close()
        self._process = None

    def _start_is_late(self) -> None:
        seconds = self._setup.start_seconds
        message = f"the worker process was not ready after {seconds:g} s (--start-seconds)"
        _settle(self._started, StartError("WORKER_FAILED", message))
        self.kill()

    def _kill_because_of(self, number: int) -> None:
        self._blamed = number
        self.kill()

    def _deliver(self, message: Any) -> None:
        """Take a message of the process; None is its end."""
        self.heard = asyncio.get_running_loop().time()
        if isinstance(message, Step):
            self._desks[message.number].on_progress(message.progress)
        elif isinstance(message, Ended):
            self._leave(message.number, _outcome(message.outcome))
        elif isinstance(message, Ready):
            _settle(self._started, message.checkpoints)
        elif isinstance(message, Reloaded) and self._reloaded is not None:
            _settle(self._reloaded, _outcome(message.outcome))
        elif isinstance(message, Failed):
            _settle(self._started, message.error())
        elif message is None:
            self._die()

    def _die(self) -> None:
        self.ready = False
        self.kill()  # a reader that failed leaves a process behind
        self.ended.set()
        if self._reloaded is not None:
            _settle(self._reloaded, WorkerLost("WORKER_LOST", "the worker process died"))
        _settle(
            self._started,
            StartError("WORKER_FAILED", "the worker process died before it was ready"),
        )
        for number in tuple(self._desks):
            kind = WorkerLost if self._blamed in (None, number) else WorkerKilled
            self._leave(number, kind("WORKER_LOST", "the worker process died while it was at it"))

    def _leave(self, number: int, outcome: Made | Exception) -> None:
        desk = self._desks.pop(number)
        if desk.killer is not None:
            desk.killer.cancel()
        _settle(desk.made, outcome)


def _outcome(outcome: Any) -> Any:
    return outcome.error() if isinstance(outcome, Failed) else outcome


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return  # nobody waits for it any more
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _enter(connection: Connection, setup: Setup) -> None:
    """Run the worker; the entry point of the process."""
    # Imported here because this function is all that the front knows of the module, and the front
    # must not import torch.
    from metanas_server.workers.main import main

    main(connection, setup)


def _read(
    connection: Connection, loop: asyncio.AbstractEventLoop, deliver: Callable[[Any], None]
) -> None:
    """Pass on each message of the worker process; None at its end, or if one cannot be read."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = None
        except Exception:
            LOG.exception("a message of a worker process cannot be read; the process is ended")
            message = None
        try:
            loop.call_soon_threadsafe(deliver, message)
        except RuntimeError:
            return  # the loop is closed, nobody listens
        if message is None:
            return


def _write(connection: Connection, outbox: Outbox) -> None:
    """Send what there is to send: a worker in a long step does not read, and the pipe is short."""
    while (message := outbox.get()) is not None:
        try:
            connection.send(message)
        except OSError:
            return  # it has died, which the reader notices
