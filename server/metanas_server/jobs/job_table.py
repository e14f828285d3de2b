"""The table of unfinished jobs; it writes down each change of a job's state."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from metanas.errors import Cancelled, MetanasError
from metanas_server.errors import LeaseLost, StoreUnavailable, Unavailable
from metanas_server.jobs.job import Job
from metanas_server.jobs.spans import adaptation_span
from metanas_server.observation.metrics import Metrics
from metanas_server.observation.spans import trace_fields
from metanas_server.resources import AdaptationRecord, ModelRecord, State
from metanas_server.status import describe
from metanas_server.storage.archive import Archive
from metanas_server.workers.protocol import Made

if TYPE_CHECKING:
    from metanas_server.observation.traces import Traces

LOG = logging.getLogger(__name__)
POLL_SECONDS = 0.5  # between two looks of a job that waits for the store


def stopping_error() -> Unavailable:
    """Make the error for work that a stopping server cannot accept or finish."""
    return Unavailable("SERVER_STOPPING", "the server is stopping; try again in a moment")


class JobTable:
    """Unfinished jobs, by the id of their adaptation.

    ```
    add ──▶ QUEUED ──begin──▶ RUNNING ──succeed──▶ SUCCEEDED
              ▲                  │
              └─────requeue──────┘    from both: fail ──▶ FAILED, CANCELLED
    ```

    `hand_back` leaves a job queued for the next run of the server. A job has a new state when it is
    on the disk; while the data folder cannot be written, the methods wait.
    """

    def __init__(self, archive: Archive, metrics: Metrics, traces: "Traces | None" = None) -> None:
        self.jobs: dict[str, Job] = {}
        self.metrics = metrics
        self._traces = traces
        self._archive = archive
        self._discards = set[asyncio.Task[None]]()

    def now(self) -> int:
        """Return the time by which deadlines are set, in nanoseconds since 1970."""
        return self._archive.records.clock.earliest()

    def add(self, job: Job) -> None:
        """Add a queued job."""
        self.jobs[job.record.id] = job

    @asynccontextmanager
    async def support(self, job: Job) -> AsyncIterator[Path]:
        """Open the file of a job's support set, as soon as the store can be used.

        Raises:
            StoreError: ARTEFACT_LOST, ARTEFACT_DAMAGED.
            Cancelled: the job was stopped meanwhile.
        """
        async with AsyncExitStack() as opened:
            while job.stop_reason is None:
                if not self._archive.is_writable:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                with suppress(StoreUnavailable):
                    path = await opened.enter_async_context(self._archive.open(job.record.support))
                    yield path
                    return
            raise Cancelled

    async def begin(self, job: Job) -> None:
        """Record that an attempt begins.

        Raises:
            LeaseLost: another front has the job.
        """
        begun = replace(job.record, state=State.RUNNING, attempts=job.record.attempts + 1)
        now = time.time_ns()
        await self._change(job, replace(begun, start_time=now))
        if begun.attempts == 1:
            self.metrics.wait(max(0, now - begun.create_time) / 1e9)

    async def requeue(self, job: Job, losses: int) -> None:
        """Record that an attempt was lost, and that the job waits again.

        Raises:
            LeaseLost: another front has the job.
        """
        await self._change(job, replace(job.record, state=State.QUEUED, losses=losses))

    async def succeed(self, job: Job, made: Made) -> None:
        """Store the model and end the job.

        Raises:
            LeaseLost: another front has the job.
        """
        now, record = time.time_ns(), job.record
        model = ModelRecord(
            id=record.id,
            owner=record.owner,
            checkpoint=made.checkpoint,
            sha256=made.sha256,
            size_bytes=len(made.onnx),
            labels=made.labels,
            genotype_json=made.genotype_json,
            report_json=made.report_json,
            create_time=now,
        )
        ended = replace(
            record,
            state=State.SUCCEEDED,
            checkpoint=made.checkpoint,
            end_time=now,
            model=model.id,
            support="",
            labels=made.labels,
        )
        finish = self._archive.finish
        await self._persist(job, lambda: finish(ended, job.progress, model, made.onnx))
        self._remove(job, ended)
        self.metrics.stages(json.loads(made.report_json)["seconds"])

    async def fail(self, job: Job, error: MetanasError) -> None:
        """End a job without a model; a job that has ended already stays as it is."""
        await self._persist(job, lambda: self.try_fail(job, error))

    async def try_fail(self, job: Job, error: MetanasError) -> None:
        """End a job as `fail` does, but do not wait.

        Raises:
            StoreUnavailable: the end cannot be written down, and the job goes on.
        """
        if job.ended.is_set():
            return
        ended = replace(
            job.record,
            state=State.CANCELLED if isinstance(error, Cancelled) else State.FAILED,
            end_time=time.time_ns(),
            failure=describe(error),
            support="",
        )
        try:
            await self._archive.update(ended, job.progress)
        except LeaseLost:
            self.lose(job)
        else:
            self._remove(job, ended)

    def lose(self, job: Job) -> None:
        """Forget a job that another front has taken; its watchers follow it there."""
        if self.jobs.get(job.record.id) is job:
            fields = trace_fields(job.record.trace)
            LOG.info("adaptation %s: another front has it now", job.record.id, extra=fields)
            del self.jobs[job.record.id]
            job.interrupt(LeaseLost("ADAPTATION_MOVED", "another front has the adaptation"))

    async def until_writable(self) -> None:
        """Wait while changes of jobs cannot be written down."""
        await self._archive.until_writable()

    async def hand_back(self, job: Job) -> None:
        """Leave a job queued for the next run of the server."""
        if job.record.state is not State.QUEUED:
            with suppress(StoreUnavailable, LeaseLost):  # the next run queues a running job, too
                await self._archive.update(replace(job.record, state=State.QUEUED))
        self.jobs.pop(job.record.id, None)
        job.interrupt(stopping_error())

    async def _change(self, job: Job, record: AdaptationRecord) -> None:
        await self._persist(job, lambda: self._archive.update(record))
        job.change(record)

    async def _persist(self, job: Job, write: Callable[[], Awaitable[None]]) -> None:
        """Write; try again whenever the data folder can be written again.

        Raises:
            LeaseLost: another front has the job, and this one has forgotten it.
        """
        while True:
            try:
                return await write()
            except StoreUnavailable:
                await self._archive.until_writable()
            except LeaseLost:
                self.lose(job)
                raise

    def _remove(self, job: Job, ended: AdaptationRecord) -> None:
        reason = "" if ended.failure is None else ended.failure.reason
        text = reason and f" ({reason})"
        LOG.info(
            "adaptation %s: %s%s", ended.id, ended.state, text, extra=trace_fields(ended.trace)
        )
        seconds = max(0, ended.end_time - ended.create_time) / 1e9
        self.metrics.adaptation(ended.state, reason, seconds)
        self.jobs.pop(ended.id, None)
        discard = self._archive.discard(job.record.support)
        job.change(ended)
        if self._traces is not None:
            self._traces.add(adaptation_span(job), ended.trace)
        task = asyncio.get_running_loop().create_task(discard)
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)
