"""The crew: for each worker a loop that takes the next job, has it made, and keeps the outcome."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from metanas.card import CheckpointCard
from metanas.errors import Cancelled, MetanasError
from metanas_server.archive import Archive
from metanas_server.config import ServerConfig
from metanas_server.errors import (
    CallerLeft,
    ServiceError,
    StoreError,
    TimedOut,
    Unavailable,
    WorkerLost,
)
from metanas_server.live import LiveJob
from metanas_server.pipe import Job, Made
from metanas_server.resources import AdaptationRecord, ModelRecord, State
from metanas_server.status import describe
from metanas_server.workers import WorkerProcess

LOG = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0

Ended = MetanasError | ServiceError
OnHealth = Callable[[bool], Awaitable[None]]


def stopping() -> Unavailable:
    """What everybody gets whose work the server cannot finish any more."""
    return Unavailable("SERVER_STOPPING", "the server is stopping; try again in a moment")


class Crew:
    """Workers, the queue that they take from, and the jobs that have not ended.

    A worker that dies is replaced and its job is begun again, until `max_attempts` workers have
    died of it. An adaptation ends exactly once, in `_end`.
    """

    def __init__(
        self,
        config: ServerConfig,
        archive: Archive,
        workers: Sequence[WorkerProcess],
        on_health: OnHealth,
    ) -> None:
        """Use these workers; `on_health` is told when none is alive, and when one is again."""
        self.board: dict[str, LiveJob] = {}
        self.checkpoints: Mapping[str, CheckpointCard] = {}
        self._config = config
        self._archive = archive
        self._workers = tuple(workers)
        self._on_health = on_health
        self._queue: asyncio.PriorityQueue[LiveJob] = asyncio.PriorityQueue()
        self._tasks = set[asyncio.Task[None]]()
        self._stopping = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are there."""
        return tuple(worker.pid for worker in self._workers if worker.pid is not None)

    async def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raises:
            MetanasError, ServiceError: why one of them cannot start.
        """
        for loaded in await asyncio.gather(*(worker.start() for worker in self._workers)):
            self.checkpoints = loaded
        for worker in self._workers:
            self._spawn(self._serve(worker))

    async def stop(self, grace: float) -> None:
        """Let running jobs end within `grace` seconds, then stop them, and end the workers.

        What goes on without a caller is handed back: it stays in the records as queued.
        """
        self._stopping = True
        jobs = [job for job in self.board.values() if not job.ended.is_set()]
        waiting = [job for job in jobs if job.worker is None]
        running = [job for job in jobs if job.worker is not None]
        for job in waiting:
            self._give_back_or_end(job)
        await _ended(running, grace)
        for job in running:
            self.end(job, stopping())
        await _ended(running, self._config.stop_seconds)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.close()

    async def close(self) -> None:
        """End the workers at once."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    def enqueue(self, job: LiveJob) -> None:
        """Have a job made when its turn comes."""
        self.board[job.record.id] = job
        self._queue.put_nowait(job)

    def end(self, job: LiveJob, why: Ended) -> None:
        """Have a job end for this reason: at once, or between two steps if a worker is at it."""
        if job.worker is None:
            self._end(job, why)
        elif job.stop is None:
            job.stop = why
            job.worker.stop(job.number)
            loop = asyncio.get_running_loop()
            job.killer = loop.call_later(self._config.stop_seconds, job.worker.kill)

    async def _serve(self, worker: WorkerProcess) -> None:
        while True:
            job = await self._next(worker)
            if job.record.state.final:
                continue  # it was cancelled while it waited
            try:
                await self._attempt(job, worker)
            except (MetanasError, ServiceError) as error:
                self._end(job, error)
            except Exception as error:  # a defect here must cost one job, not the loop
                LOG.exception("adaptation %s", job.record.id)
                self._end(job, ServiceError("INTERNAL", f"a defect: {type(error).__name__}"))

    async def _next(self, worker: WorkerProcess) -> LiveJob:
        """The next job, as soon as there is one and the worker is alive."""
        while True:
            if worker.ended.is_set():
                await self._replace(worker)
            job = asyncio.ensure_future(self._queue.get())
            death = asyncio.ensure_future(worker.ended.wait())
            try:
                await asyncio.wait((job, death), return_when=asyncio.FIRST_COMPLETED)
                if job.done() and not worker.ended.is_set():
                    return job.result()
            finally:
                death.cancel()
                if not job.done():
                    job.cancel()
            if job.done() and not job.cancelled():
                self._queue.put_nowait(job.result())

    async def _replace(self, worker: WorkerProcess) -> None:
        LOG.warning("a worker process has died; starting another one")
        if all(each.ended.is_set() for each in self._workers):
            await self._on_health(False)
        pause = FIRST_PAUSE
        while True:
            try:
                self.checkpoints = await worker.start()
            except (MetanasError, ServiceError, OSError):
                LOG.exception("the worker process does not start; next try in %.1f s", pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                await self._on_health(True)
                return

    async def _attempt(self, job: LiveJob, worker: WorkerProcess) -> None:
        record = job.record
        begun = replace(
            record, state=State.RUNNING, attempts=record.attempts + 1, start_time=time.time_ns()
        )
        self._archive.records.update(begun)
        job.change(begun)
        job.worker = worker
        LOG.info("adaptation %s: attempt %d on %s", begun.id, begun.attempts, worker.device)
        late = TimedOut(
            "ADAPTATION_TIMEOUT",
            f"stopped after {begun.timeout:g} s; ask for fewer steps or for more time",
        )
        timer = asyncio.get_running_loop().call_later(begun.timeout, self.end, job, late)
        outcome: Made | Ended
        try:
            outcome = await worker.run(self._order(job), job.add)
        except (MetanasError, ServiceError) as error:
            outcome = error
        finally:
            timer.cancel()
            if job.killer is not None:
                job.killer.cancel()
            job.worker = None
        await self._conclude(job, outcome)

    def _order(self, job: LiveJob) -> Job:
        record = job.record
        return Job(
            number=job.number,
            checkpoint=record.checkpoint,
            overrides=record.overrides,
            seed=record.seed,
            classes=record.classes,
            support=self._archive.store.path(record.support),
        )

    async def _conclude(self, job: LiveJob, outcome: Made | Ended) -> None:
        if isinstance(outcome, Made):
            await self._keep(job, outcome)
        elif isinstance(outcome, WorkerLost | Cancelled) and job.stop is not None:
            if isinstance(job.stop, Unavailable):
                self._give_back_or_end(job)
            else:
                self._end(job, job.stop)
        elif isinstance(outcome, WorkerLost):
            self._lost(job)
        else:
            self._end(job, outcome)

    async def _keep(self, job: LiveJob, made: Made) -> None:
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
        try:
            await self._archive.finish(done, job.progress, model, made.onnx)
        except StoreError as error:
            self._end(job, error)
        else:
            self._leave(job, done)

    def _lost(self, job: LiveJob) -> None:
        job.losses += 1
        if job.losses >= self._config.max_attempts:
            message = f"{job.losses} worker processes have died of this adaptation; it is given up"
            self._end(job, WorkerLost("WORKER_LOST", message))
        elif self._stopping:
            self._give_back_or_end(job)
        else:
            queued = replace(job.record, state=State.QUEUED)
            self._archive.records.update(queued)
            job.change(queued)
            self._queue.put_nowait(job)

    def _give_back_or_end(self, job: LiveJob) -> None:
        """The server goes: what has no caller stays queued for its next run, all else ends."""
        if not job.record.detached:
            self._end(job, stopping())
            return
        try:
            self._archive.records.update(replace(job.record, state=State.QUEUED))
        except StoreError:
            # It stays written down as running, and that is taken up again all the same.
            LOG.exception("cannot hand back adaptation %s", job.record.id)
        del self.board[job.record.id]
        job.close(stopping())

    def _end(self, job: LiveJob, why: Ended) -> None:
        """End without a model; nothing happens to a job that has ended already."""
        if job.ended.is_set():
            return
        cancelled = isinstance(why, Cancelled | CallerLeft | Unavailable)
        ended = replace(
            job.record,
            state=State.CANCELLED if cancelled else State.FAILED,
            end_time=time.time_ns(),
            failure=describe(why),
            support="",
        )
        try:
            self._archive.records.update(ended, job.progress)
        except StoreError:
            # It stays on the board, where it is found as it ended; after a restart it is run again.
            LOG.exception("cannot write down how adaptation %s ended", ended.id)
            job.change(ended)
        else:
            self._leave(job, ended)

    def _leave(self, job: LiveJob, ended: AdaptationRecord) -> None:
        reason = "" if ended.failure is None else f" ({ended.failure.reason})"
        LOG.info("adaptation %s: %s%s", ended.id, ended.state, reason)
        support = job.record.support
        del self.board[ended.id]
        job.change(ended)
        self._spawn(self._archive.discard(support))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _ended(jobs: Sequence[LiveJob], seconds: float) -> None:
    """Wait until these jobs have ended, but no longer than this."""
    waits = [asyncio.ensure_future(job.ended.wait()) for job in jobs]
    if waits:
        _, late = await asyncio.wait(waits, timeout=seconds)
        for wait in late:
            wait.cancel()
