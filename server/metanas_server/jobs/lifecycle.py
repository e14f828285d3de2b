"""The board: adaptations that have not ended, and each way in which one can end."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from metanas.errors import Cancelled, MetanasError
from metanas_server.errors import ServiceError, StoreError, Unavailable
from metanas_server.jobs.live_job import LiveJob
from metanas_server.resources import AdaptationRecord, ModelRecord, State
from metanas_server.status import describe
from metanas_server.storage.archive import Archive
from metanas_server.workers.protocol import Made

LOG = logging.getLogger(__name__)


def stopping() -> Unavailable:
    """Make the error of work that a stopping server cannot finish."""
    return Unavailable("SERVER_STOPPING", "the server is stopping; try again in a moment")


class Board:
    """Adaptations that have not ended, by id; what happens to one is written down here.

    An adaptation ends exactly once: by `keep`, `end`, or `hand_back` for this run of the server.
    """

    def __init__(self, archive: Archive) -> None:
        self.jobs: dict[str, LiveJob] = {}
        self._archive = archive
        self._records = archive.records
        self._discards = set[asyncio.Task[None]]()

    def add(self, job: LiveJob) -> None:
        """Take an adaptation in."""
        self.jobs[job.record.id] = job

    def support(self, job: LiveJob) -> Path:
        """Return the file of an adaptation's support set."""
        return self._archive.store.path(job.record.support)

    def begin(self, job: LiveJob) -> None:
        """Note that another attempt begins.

        Raises:
            StoreError: it cannot be written down.
        """
        record = job.record
        begun = replace(
            record, state=State.RUNNING, attempts=record.attempts + 1, start_time=time.time_ns()
        )
        self._records.update(begun)
        job.change(begun)

    def requeue(self, job: LiveJob) -> None:
        """Note that an attempt was lost, and that it waits again.

        Raises:
            StoreError: it cannot be written down.
        """
        queued = replace(job.record, state=State.QUEUED)
        self._records.update(queued)
        job.change(queued)

    async def keep(self, job: LiveJob, made: Made) -> None:
        """End with a model.

        Raises:
            StoreError: the model cannot be kept, and the adaptation has not ended.
        """
        now, record = time.time_ns(), job.record
        model = ModelRecord(
            id=record.id,
            checkpoint=record.checkpoint,
            sha256=made.sha256,
            size_bytes=len(made.onnx),
            labels=made.labels,
            genotype_json=made.genotype_json,
            report_json=made.report_json,
            create_time=now,
        )
        done = replace(
            record,
            state=State.SUCCEEDED,
            end_time=now,
            model=model.id,
            support="",
            labels=made.labels,
        )
        await self._archive.finish(done, job.progress, model, made.onnx)
        self._leave(job, done)

    def end(self, job: LiveJob, why: MetanasError | ServiceError) -> None:
        """End without a model; nothing happens to a job that has ended already."""
        if job.ended.is_set():
            return
        ended = replace(
            job.record,
            state=State.CANCELLED if isinstance(why, Cancelled) else State.FAILED,
            end_time=time.time_ns(),
            failure=describe(why),
            support="",
        )
        try:
            self._records.update(ended, job.progress)
        except StoreError:
            # It stays on the board, where it is found as it ended; after a restart it is run again.
            LOG.exception("cannot write down how adaptation %s ended", ended.id)
            job.change(ended)
        else:
            self._leave(job, ended)

    def hand_back(self, job: LiveJob) -> None:
        """Leave an adaptation queued for the next run of the server."""
        try:
            self._records.update(replace(job.record, state=State.QUEUED))
        except StoreError:
            # It stays written down as running, and that is taken up again all the same.
            LOG.exception("cannot hand back adaptation %s", job.record.id)
        del self.jobs[job.record.id]
        job.close(stopping())

    def _leave(self, job: LiveJob, ended: AdaptationRecord) -> None:
        reason = "" if ended.failure is None else f" ({ended.failure.reason})"
        LOG.info("adaptation %s: %s%s", ended.id, ended.state, reason)
        support = job.record.support
        del self.jobs[ended.id]
        job.change(ended)
        self._spawn(self._archive.discard(support))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)
