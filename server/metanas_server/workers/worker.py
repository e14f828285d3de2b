"""The front's side of a worker: start it, send it jobs, stop jobs, detect its death."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metanas.spec.progress import Progress
from metanas_server.errors import StartError, WorkerKilled, WorkerLost
from metanas_server.workers.failures import Failed
from metanas_server.workers.link import Died, Launcher, Link
from metanas_server.workers.protocol import (
    Adopt,
    Cards,
    Ended,
    FromWorker,
    Loaded,
    Made,
    Order,
    Reload,
    Setup,
    Share,
    Started,
    Step,
    Stop,
)

NO_JOB = 0  # jobs count from 1


@dataclass
class Assignment:
    """One job of a worker: the callback for its progress, and its result."""

    on_progress: Callable[[Progress], None]
    result: asyncio.Future[Made]
    kill_timer: asyncio.TimerHandle | None = None


class Worker:
    """One worker process at a time, here or in a Ray cluster, and its jobs.

    Call all methods from the event loop's thread.

    ready: True if it can run jobs.
    cards: the cards of the checkpoints that the process has loaded, by name.
    last_message: time of its last message, by the event loop's clock.
    ended: set when the process has died; `start` replaces the event.
    """

    def __init__(self, setup: Setup, launcher: Launcher) -> None:
        self.ready = False
        self.cards = Cards()
        self.last_message = 0.0
        self.ended = asyncio.Event()
        self._setup = setup
        self._launcher = launcher
        self._link: Link | None = None
        self._loaded: asyncio.Future[Loaded]
        self._started: Started | None = None
        self._assignments = dict[int, Assignment]()
        self._killed_for: int | None = None
        """Number of the job for which the process was killed; None if it was not."""
        self._share = setup.threads

    @property
    def device(self) -> str:
        """The device of the process."""
        return self._setup.device

    @property
    def name(self) -> str:
        """The process id, with the host if that is another one; "-" while it starts."""
        started = self._started
        if started is None:
            return "-"
        return f"{started.pid}" if _is_here(started) else f"{started.pid} on {started.host}"

    @property
    def pid(self) -> int | None:
        """The id of a process on this host; None without one."""
        started = self._started if self._link is not None else None
        return started.pid if started is not None and _is_here(started) else None

    async def start(self) -> Cards:
        """End the last process, start another and return the cards of its checkpoints.

        Raises:
            StartError: WORKER_FAILED, it died before it was ready, or took longer than allowed.
            MetanasError: it cannot load the checkpoints.
        """
        await self.close()
        self.ended, self._killed_for = asyncio.Event(), None
        self._loaded = asyncio.get_running_loop().create_future()
        self._started, self._share = None, self._setup.threads
        self._link = await self._launcher.launch(self._setup, self._deliver)
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
        self._loaded = asyncio.get_running_loop().create_future()
        self._send(Reload())
        cards = await self._wait_for_cards()
        cards.check()
        return cards

    def adopt(self, cards: Cards | None) -> None:
        """Have the process use the checkpoints of its reload; None discards them.

        Running jobs keep their checkpoint.
        """
        if cards is not None:
            self.cards = cards
        self._send(Adopt(cards is not None))

    def give(self, order: Order, on_progress: Callable[[Progress], None]) -> asyncio.Future[Made]:
        """Run a job beside the others of the process.

        The future's errors:
            WorkerLost: the process has died; `start` begins another one.
            WorkerKilled: the process has died for another reason than this job.
            MetanasError: the error that ended the job.
        """
        assignment = Assignment(on_progress, asyncio.get_running_loop().create_future())
        self._assignments[order.number] = assignment
        self._send(order)
        return assignment.result

    def stop(self, number: int, patience: float) -> None:
        """Stop a job between two steps; kill the process if that takes over `patience` seconds."""
        assignment = self._assignments.get(number)
        if assignment is not None and assignment.kill_timer is None:
            self._send(Stop(number))
            loop = asyncio.get_running_loop()
            assignment.kill_timer = loop.call_later(patience, self._kill_for, number)

    def share(self, threads: int) -> None:
        """Set the number of threads from the next step on."""
        if threads != self._share:
            self._share = threads
            self._send(Share(threads))

    def kill(self) -> None:
        """Kill the process; its jobs are lost."""
        if self._link is not None:
            self._link.kill()

    async def close(self) -> None:
        """End the process. Nothing is lost: all results went over the link."""
        if self._link is None:
            return
        self._kill_for(NO_JOB)
        await self._link.close()
        self._link = None

    def _send(self, message: Order | Stop | Share | Reload | Adopt) -> None:
        if self._link is not None:
            self._link.send(message)

    async def _wait_for_cards(self) -> Cards:
        loop = asyncio.get_running_loop()
        late = loop.call_later(self._setup.start_seconds, self._end_slow_load)
        try:
            loaded = await self._loaded
        finally:
            late.cancel()
        if isinstance(loaded.outcome, Failed):
            raise loaded.outcome.error()
        return loaded.outcome

    def _end_slow_load(self) -> None:
        seconds = f"{self._setup.start_seconds:g} s (--start-seconds)"
        message = f"the worker process has not loaded the checkpoints after {seconds}"
        message += self._launcher.hint and f"; {self._launcher.hint}"
        _settle(self._loaded, StartError("WORKER_FAILED", message))
        self._kill_for(NO_JOB)

    def _kill_for(self, number: int) -> None:
        self._killed_for = number
        self.kill()

    def _deliver(self, message: FromWorker | Died) -> None:
        """Handle a message of the process."""
        self.last_message = asyncio.get_running_loop().time()
        if isinstance(message, Step):
            self._assignments[message.number].on_progress(message.progress)
        elif isinstance(message, Ended):
            self._finish(message.number, _outcome(message.outcome))
        elif isinstance(message, Loaded):
            _settle(self._loaded, message)
        elif isinstance(message, Started):
            self._started = message
        elif isinstance(message, Died):
            self._die(message)

    def _die(self, died: Died) -> None:
        """End the jobs of a dead process; `WorkerPool` starts another one."""
        self.ready = False
        self.kill()  # after a failure of the link the process still lives
        self.ended.set()
        message = f"{died.reason} while it loaded the checkpoints"
        _settle(self._loaded, StartError("WORKER_FAILED", message))
        for number in tuple(self._assignments):
            blamed = self._killed_for == number or (self._killed_for is None and died.by_job)
            error = WorkerLost if blamed else WorkerKilled
            self._finish(number, error("WORKER_LOST", died.reason))

    def _finish(self, number: int, outcome: Made | Exception) -> None:
        assignment = self._assignments.pop(number)
        if assignment.kill_timer is not None:
            assignment.kill_timer.cancel()
        _settle(assignment.result, outcome)


def _is_here(started: Started) -> bool:
    return started.host == socket.gethostname()


def _outcome(outcome: Made | Failed) -> Made | Exception:
    return outcome.error() if isinstance(outcome, Failed) else outcome


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return  # the wait is over: loaded, too late or cancelled
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
