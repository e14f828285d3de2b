"""An unfinished adaptation in memory: its latest state, its progress, and who watches it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

from metanas.errors import MetanasError
from metanas.spec.report import Progress
from metanas_server.errors import ServiceError
from metanas_server.resources import AdaptationRecord, ProgressRecord
from metanas_server.workers.process import WorkerProcess

Event = AdaptationRecord | ProgressRecord


class LiveJob:
    """One unfinished adaptation.

    number: its place in the queue, and its name for a worker.
    caller: who asked for it.
    losses: how many workers have died with it.
    apart: whether it is to have a worker to itself.
    company: whether others have been on its worker in this attempt.
    stop: why it is to stop; None while it is not.
    worker: who is at it; None while nobody is.
    ended: set when nothing more will happen in this run of the server.
    """

    def __init__(self, number: int, record: AdaptationRecord, caller: str) -> None:
        self.number = number
        self.record = record
        self.caller = caller
        self.losses = 0
        self.apart = False
        self.company = False
        self.stop: MetanasError | ServiceError | None = None
        self.worker: WorkerProcess | None = None
        self.progress = list[ProgressRecord]()
        self.ended = asyncio.Event()
        self._log = list[Event]([record])
        self._changed = asyncio.Event()
        self._closed: ServiceError | None = None

    def __lt__(self, other: "LiveJob") -> bool:
        """The queue's order: who came first, also after a worker was lost."""
        return self.number < other.number

    def change(self, record: AdaptationRecord) -> None:
        """The adaptation is now this; tell the watchers."""
        self.record = record
        self._log.append(record)
        if record.state.final:
            self.ended.set()
        self._wake()

    def add(self, progress: Progress) -> None:
        """Store progress and wake the watchers."""
        entry = ProgressRecord(
            sequence=len(self.progress) + 1,
            attempt=self.record.attempts,
            time=time.time_ns(),
            stage=progress.stage,
            step=progress.step,
            steps=progress.steps,
            loss=_finite(progress.loss),
            accuracy=_finite(progress.accuracy),
            temperature=_finite(progress.temperature),
            entropy=_finite(progress.entropy),
        )
        self.progress.append(entry)
        self._log.append(entry)
        self._wake()

    def close(self, error: ServiceError) -> None:
        """The server goes, the adaptation stays: the watchers get this error."""
        self._closed = error
        self.ended.set()
        self._wake()

    async def events(self, after: int) -> AsyncIterator[Event]:
        """The adaptation as it is, progress beyond `after`, changes of state, the final state."""
        position, history = 0, len(self._log)
        yield self.record
        while True:
            while position < len(self._log):
                event, position = self._log[position], position + 1
                if isinstance(event, ProgressRecord):
                    if event.sequence > after:
                        yield event
                elif position > history and not event.state.final:
                    yield event
            if self.record.state.final:
                yield self.record
                return
            if self._closed is not None:
                raise self._closed
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
