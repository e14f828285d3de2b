"""The front's side of a worker process: start it, send it jobs, stop jobs, detect its death."""

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from metanas.spec.progress import Progress
from metanas_server.errors import StartError, WorkerKilled, WorkerLost
from metanas_server.workers.failures import Failed
from metanas_server.workers.protocol import (
    Adopt,
    Cards,
    Ended,
    Loaded,
    Made,
    Order,
    Reload,
    Setup,
    Share,
    Step,
    Stop,
)

LOG = logging.getLogger(__name__)
NO_JOB = 0  # jobs count from 1
Outbox = SimpleQueue[Order | Stop | Share | Reload | Adopt | None]


@dataclass
class Assignment:
    """One job of a worker process: the callback for its progress, and its result."""

    on_progress: Callable[[Progress], None]
    result: asyncio.Future[Made]
    kill_timer: asyncio.TimerHandle | None = None


class WorkerProcess:
    """One worker process at a time, and its jobs.

    The process is spawned, never forked: a forked copy of grpc's and torch's threads hangs. Call
    all methods from the event loop's thread; two other threads read and write the pipe.

    ready: True if it can run jobs.
    cards: the cards of the checkpoints that the process has loaded, by name.
    last_message: time of its last message, by the event loop's clock.
    ended: set when the process has died; `start` replaces the event.
    """

    def __init__(self, setup: Setup) -> None:
        self.ready = False
        self.cards = Cards()
        self.last_message = 0.0
        self.ended = asyncio.Event()
        self._setup = setup
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection
        self._threads: tuple[threading.Thread, ...] = ()
        self._outbox: Outbox
        self._loaded: asyncio.Future[Cards]
        self._assignments = dict[int, Assignment]()
        self._killed_for: int | None = None
        """Number of the job for which the process was killed; None if it was not."""
        self._share = setup.threads

    @property
    def device(self) -> str:
        """The device of the process."""
        return self._setup.device

    @property
    def pid(self) -> int | None:
        """The process id; None without a process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> Cards:
        """End the last process, start another and return the cards of its checkpoints.

        Raises:
            StartError: WORKER_FAILED, it died before it was ready, or took longer than allowed.
            MetanasError: it cannot load the checkpoints.
        """
        await self.close()
        loop = asyncio.get_running_loop()
        self._connection, child_end = self._context.Pipe()
        self._outbox, self.ended, self._killed_for = SimpleQueue(), asyncio.Event(), None
        self._share = self._setup.threads
        process = self._context.Process(
            target=_enter,
            args=(child_end, self._setup),
            name=f"metanas-worker-{self.device}",
            daemon=True,
        )
        process.start()
        self._process = process
        child_end.close()  # else the end of the process would not end the pipe
        self._threads = (
            threading.Thread(target=_read, args=(self._connection, loop, self._deliver)),
            threading.Thread(target=_write, args=(self._connection, self._outbox)),
        )
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        self.cards = await self._wait_for_cards()
        self.ready = not self.ended.is_set()
        return self.cards

    def has(self, name: str, digest: str) -> bool:
        """Return True if the process has this checkpoint with this digest."""
        return self.cards.digests.get(name) == digest

    async def reload(self) -> Cards:
        """Have the process load the checkpoints again, beside those in use; `adopt` must follow.

        A process that takes longer than `start_seconds` is killed; its jobs lose no attempt.

        Raises:
            StartError: WORKER_FAILED, it died or took longer than allowed.
            MetanasError: it cannot load the checkpoints.
        """
        self._outbox.put(Reload())
        cards = await self._wait_for_cards()
        cards.check()
        return cards

    def adopt(self, cards: Cards | None) -> None:
        """Have the process use the checkpoints of its reload; None discards them.

        Running jobs keep their checkpoint.
        """
        if cards is not None:
            self.cards = cards
        self._outbox.put(Adopt(cards is not None))

    def give(self, order: Order, on_progress: Callable[[Progress], None]) -> asyncio.Future[Made]:
        """Run a job beside the others of the process.

        The future's errors:
            WorkerLost: the process has died; `start` begins another one.
            WorkerKilled: the process was killed for another reason than this job.
            MetanasError: the error that ended the job.
        """
        assignment = Assignment(on_progress, asyncio.get_running_loop().create_future())
        self._assignments[order.number] = assignment
        self._outbox.put(order)
        return assignment.result

    def stop(self, number: int, patience: float) -> None:
        """Stop a job between two steps; kill the process if that takes over `patience` seconds."""
        assignment = self._assignments.get(number)
        if assignment is not None and assignment.kill_timer is None:
            self._outbox.put(Stop(number))
            loop = asyncio.get_running_loop()
            assignment.kill_timer = loop.call_later(patience, self._kill_for, number)

    def share(self, threads: int) -> None:
        """Set the number of threads from the next step on."""
        if threads != self._share:
            self._share = threads
            self._outbox.put(Share(threads))

    def kill(self) -> None:
        """Kill the process; its jobs are lost."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    async def close(self) -> None:
        """End the process. Nothing is lost: all results went through the pipe."""
        if self._process is None:
            return
        self._kill_for(NO_JOB)
        await asyncio.to_thread(self._process.join)
        # The end of the process ends the pipe, and with it the threads. Close the pipe only then:
        # a thread may still read from it.
        self._outbox.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._connection.close()
        self._process.close()
        self._process = None

    async def _wait_for_cards(self) -> Cards:
        loop = asyncio.get_running_loop()
        self._loaded = loop.create_future()
        late = loop.call_later(self._setup.start_seconds, self._end_slow_load)
        try:
            return await self._loaded
        finally:
            late.cancel()

    def _end_slow_load(self) -> None:
        seconds = f"{self._setup.start_seconds:g} s (--start-seconds)"
        message = f"the worker process has not loaded the checkpoints after {seconds}"
        _settle(self._loaded, StartError("WORKER_FAILED", message))
        self._kill_for(NO_JOB)

    def _kill_for(self, number: int) -> None:
        self._killed_for = number
        self.kill()

    def _deliver(self, message: Any) -> None:
        """Handle a message of the process; None is its end."""
        self.last_message = asyncio.get_running_loop().time()
        if isinstance(message, Step):
            self._assignments[message.number].on_progress(message.progress)
        elif isinstance(message, Ended):
            self._finish(message.number, _outcome(message.outcome))
        elif isinstance(message, Loaded):
            _settle(self._loaded, _outcome(message.outcome))
        elif message is None:
            self._die()

    def _die(self) -> None:
        """End the jobs of a dead process; `WorkerPool` starts another one."""
        self.ready = False
        self.kill()  # after a failure of the reader the process still lives
        self.ended.set()
        message = "the worker process died while it loaded the checkpoints"
        _settle(self._loaded, StartError("WORKER_FAILED", message))
        for number in tuple(self._assignments):
            error = WorkerLost if self._killed_for in (None, number) else WorkerKilled
            self._finish(number, error("WORKER_LOST", "the worker process died"))

    def _finish(self, number: int, outcome: Made | Exception) -> None:
        assignment = self._assignments.pop(number)
        if assignment.kill_timer is not None:
            assignment.kill_timer.cancel()
        _settle(assignment.result, outcome)


def _outcome(outcome: Any) -> Any:
    return outcome.error() if isinstance(outcome, Failed) else outcome


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return  # the wait is over: loaded, too late or cancelled
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _enter(connection: Connection, setup: Setup) -> None:
    """Run the worker; the entry point of the process."""
    threading.Thread(target=_end_with_front, daemon=True).start()
    # Imported here, in the worker process: the front must not import torch.
    from metanas_server.workers.main import main

    main(connection, setup)


def _end_with_front() -> None:
    """End this process as soon as the front has ended, also in the middle of a step."""
    front = multiprocessing.parent_process()
    if front is not None:
        front.join()
        os._exit(1)


def _read(
    connection: Connection, loop: asyncio.AbstractEventLoop, deliver: Callable[[Any], None]
) -> None:
    """Deliver each message of the worker process; None at its end or if one cannot be read."""
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
            return  # the loop is closed
        if message is None:
            return


def _write(connection: Connection, outbox: Outbox) -> None:
    """Send messages from a thread: a worker in a long step does not read, and the pipe is short."""
    while (message := outbox.get()) is not None:
        try:
            connection.send(message)
        except OSError:
            return  # the process has died; the reader reports it
