"""One unfinished adaptation in memory: its latest state, its progress and its watchers."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from metanas.errors import MetanasError
from metanas.spec.progress import Progress
from metanas_server.errors import LeaseLost, ServiceError
from metanas_server.resources import AdaptationRecord, ProgressRecord, State
from metanas_server.workers.worker import Worker

Event = AdaptationRecord | ProgressRecord
MOST_EVENTS = 10_000
"""More than the progress events of an attempt.

The progress of a running job is in memory. After a restart its numbers begin above all earlier
ones, so that a watcher who continues misses nothing.
"""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A new state at `time` in nanoseconds since 1970, in an attempt on a device."""

    time: int
    state: State
    attempt: int
    device: str = ""


class Job:
    """One unfinished adaptation.

    number: its place in the queue, and its name in the pipe of a worker.
    caller: the name of its caller; its owner after a restart of the server.
    worker: the worker that runs it; None while it waits.
    turn: its turn among the jobs of its caller; callers take turns in the queue.
    start_time: time of the start of its attempt, by the event loop's clock.
    most: most jobs on its worker, itself included, after the death of a worker that it may have
        caused; None before.
    limit: most jobs on its worker beside which it meets its deadline, itself included; None sets no
        limit.
    written: entries of its progress that other fronts can read.
    moves: its states in this run of the server.
    stop_reason: the error that it ends with as soon as its worker has stopped it.
    ended: set when nothing more will happen in this run of the server.
    """

    def __init__(self, number: int, record: AdaptationRecord, caller: str) -> None:
        self.number = number
        self.record = record
        self.caller = caller
        since = time.time_ns() if record.attempts else record.create_time
        self.moves = [Move(time=since, state=record.state, attempt=record.attempts)]
        self.worker: Worker | None = None
        self.turn = 0
        self.start_time = 0.0
        self.most: int | None = None
        self.limit: int | None = None
        self.stop_reason: MetanasError | None = None
        self.progress = list[ProgressRecord]()
        self.written = 0
        self._first = record.attempts * MOST_EVENTS + 1
        self.ended = asyncio.Event()
        self._events = list[Event]([record])
        self._changed = asyncio.Event()
        self._interruption: ServiceError | None = None

    def __lt__(self, other: "Job") -> bool:
        """Order the queue by turns, then by arrival; a job that lost its worker keeps its place."""
        return (self.turn, self.number) < (other.turn, other.number)

    def change(self, record: AdaptationRecord) -> None:
        """Replace the record and wake the watchers."""
        self.record = record
        device = "" if self.worker is None else self.worker.device
        self.moves.append(
            Move(time=time.time_ns(), state=record.state, attempt=record.attempts, device=device)
        )
        self._events.append(record)
        if record.state.final:
            self.ended.set()
        self._wake()

    def add(self, progress: Progress) -> None:
        """Store progress and wake the watchers."""
        entry = ProgressRecord(
            sequence=self._first + len(self.progress),
            attempt=self.record.attempts,
            time=time.time_ns(),
            stage=progress.stage,
            step=progress.step,
            steps=progress.steps,
            loss=_finite(progress.loss),
            accuracy=_finite(progress.accuracy),
            temperature=_finite(progress.temperature),
            entropy=_finite(progress.entropy),
            branch=progress.branch,
            architecture=dict(progress.architecture),
            genotype_json=progress.genotype_json,
        )
        self.append(entry)

    def append(self, entry: ProgressRecord) -> None:
        """Store an entry of the progress and wake the watchers."""
        self.progress.append(entry)
        self._events.append(entry)
        self._wake()

    def interrupt(self, error: ServiceError) -> None:
        """End the job's part in this run of the server; its watchers get the error."""
        self._interruption = error
        self.ended.set()
        self._wake()

    @property
    def has_moved(self) -> bool:
        """True if another front has taken it."""
        return isinstance(self._interruption, LeaseLost)

    async def events(self, after: int) -> AsyncGenerator[Event]:
        """Yield the present record, progress beyond `after`, new records and the final record.

        Raises:
            ServiceError: the job was interrupted.
        """
        position, history = 0, len(self._events)
        yield self.record
        while True:
            while position < len(self._events):
                event, position = self._events[position], position + 1
                if isinstance(event, ProgressRecord):
                    if event.sequence > after:
                        yield event
                elif position > history and not event.state.final:
                    yield event
            if self.record.state.final:
                yield self.record
                return
            if self._interruption is not None:
                raise self._interruption
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
