"""The dispatcher: gives queued jobs to workers, and follows each attempt to its end."""

import asyncio
import heapq
import logging
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from statistics import fmean

from metanas.errors import Cancelled, MetanasError
from metanas.spec.card import CheckpointCard
from metanas_server.callers.shares import SECONDS as SHARE_SECONDS
from metanas_server.callers.shares import Shares
from metanas_server.config import ServerConfig
from metanas_server.errors import (
    LeaseLost,
    ServiceError,
    StoreUnavailable,
    TimedOut,
    Unavailable,
    WorkerKilled,
    WorkerLost,
)
from metanas_server.jobs.job import Job
from metanas_server.jobs.job_table import JobTable, stopping_error
from metanas_server.observation.spans import trace_fields
from metanas_server.workers.pool import WorkerPool
from metanas_server.workers.protocol import Made, Order
from metanas_server.workers.worker import Worker

LOG = logging.getLogger(__name__)
PACE_JOBS = 32
"""Jobs over which the pace is a mean: jobs that step together often end together, too."""
SMALL_STACK = 2
"""Most times that a job takes longer in a small stack than its part of a full one; 1.7 measured."""


def lost_error(losses: int) -> WorkerLost:
    """Make the error of an adaptation after its last attempt."""
    message = f"{losses} processes of the server died during this adaptation; see the server's log"
    return WorkerLost("WORKER_LOST", message)


class Pace:
    """The mean time between the ends of two jobs while there is work, over the last jobs."""

    def __init__(self) -> None:
        self._times = deque[float](maxlen=PACE_JOBS)
        self._last_end = 0.0

    @property
    def seconds(self) -> float:
        """The mean; 0 before the first end."""
        return fmean(self._times) if self._times else 0.0

    def count(self, start: float, end: float) -> None:
        """Count a job that has ended now."""
        self._times.append(end - max(start, self._last_end))
        self._last_end = end


class Dispatcher:
    """The queue of jobs and the worker of each running job.

    Callers take turns: the first waiting job of each, then the second of each, and so on. Jobs of
    one caller with a higher priority take its earlier turns. A job starts on the worker with the
    fewest jobs. While several callers have jobs, each has a share of the workers (`Shares`). A job
    waits if it would make a running one miss its deadline (`Job.limit`).

    The death of a worker ends the attempts of all its jobs, and any of them can be the cause. So
    they start again among themselves, at most half as many on a worker after each death. Harmless
    jobs succeed. A job fails if it has lost `max_attempts` workers, and was alone on the last one.
    If a worker was killed because one job did not stop, the death does not count for the others.
    """

    def __init__(self, config: ServerConfig, table: JobTable, pool: WorkerPool) -> None:
        self._config = config
        self._table = table
        self._pool = pool
        self._queue = list[Job]()  # a heap
        self._turn = 0  # of the job that has started last
        self._last_turns = dict[str, int]()  # of each caller's last job, if it still waits
        self._shares = Shares()
        self._pace = Pace()
        self._tasks = set[asyncio.Task[None]]()
        self._stopping = False

    def enqueue(self, job: Job) -> None:
        """Add a job of the table to the queue."""
        turns = {name: turn for name, turn in self._last_turns.items() if turn > self._turn}
        job.turn = turns[job.caller] = turns.get(job.caller, self._turn) + 1
        self._last_turns = turns
        self._queue.append(job)
        self._order_by_priority(job.caller)
        # In a context of its own: the jobs that it starts are not part of the present call.
        alone, loop = Context(), asyncio.get_running_loop()
        loop.call_soon(self.dispatch, context=alone)
        if job.record.deadline:
            loop.call_soon(self._begin, self._end_at_deadline(job), context=alone)

    def _order_by_priority(self, caller: str) -> None:
        """Give the turns of a caller to its jobs by priority."""
        jobs = sorted(job for job in self._queue if job.caller == caller)
        turns = [job.turn for job in jobs]
        jobs.sort(key=lambda job: -job.record.priority)  # equal ones keep their order
        for job, turn in zip(jobs, turns, strict=True):
            job.turn = turn
        heapq.heapify(self._queue)

    @property
    def pace(self) -> float:
        """Mean seconds between the ends of two jobs while there is work; 0 before the first."""
        return self._pace.seconds

    @property
    def slots(self) -> int:
        """Most jobs at once on the workers that are ready, or on one if none is."""
        return self._config.max_stack * max(1, self._ready)

    @property
    def _ready(self) -> int:
        return sum(worker.ready for worker in self._pool.workers)

    @property
    def room(self) -> int:
        """Most further jobs that can start now; 0 while others wait."""
        ready = [worker for worker in self._pool.workers if worker.ready]
        loads = [self._config.max_stack - len(self._jobs_on(worker)) for worker in ready]
        return 0 if self._queue or self._stopping else sum(loads)

    def dispatch(self) -> None:
        """Start the jobs that workers have room for; call it after each change of the workers.

        Jobs overtake those whose caller has its share of the workers already. No job overtakes
        another one that has to wait. Otherwise a job that needs a worker alone could wait for ever.
        """
        share = self._share()
        late = list[Job]()
        full = set[str]()  # callers that have their share
        while self._queue and not self._stopping:
            job = self._queue[0]
            if not job.ended.is_set():  # else it was cancelled in the queue
                started = None if job.caller in full else self._assign(job, share)
                if started is None:
                    late.append(job)
                    full.add(job.caller)
                elif not started:
                    break
            heapq.heappop(self._queue)
        self._queue += late
        heapq.heapify(self._queue)
        jobs = self._table.jobs.values()
        self._pool.share_cores([job.worker for job in jobs if job.worker is not None])

    def _share(self) -> int | None:
        """Return the most jobs of a caller on a worker now; None stands for no limit."""
        unfinished = Counter(job.caller for job in self._table.jobs.values())
        return self._shares.most(unfinished, self._ready)

    async def stop_job(self, job: Job, reason: MetanasError) -> None:
        """End a job with this error: at once if it waits, else between two of its steps.

        Raises:
            StoreUnavailable: the end of a waiting job cannot be written down, and it still waits.
        """
        if job.worker is not None:
            self._stop_running(job, reason)
        elif job.stop_reason is None:
            job.stop_reason = reason
            try:
                await self._table.try_fail(job, reason)
            except StoreUnavailable:
                job.stop_reason = None
                raise
            finally:
                self.dispatch()

    def lose(self, job: Job) -> None:
        """Forget a job that another front has taken, and stop its work here."""
        self._table.lose(job)
        self._stop_running(job, LeaseLost("ADAPTATION_MOVED", "another front has the adaptation"))

    async def stop(self, grace: float) -> None:
        """Give running jobs `grace` seconds to end, hand back the others, and end the workers."""
        self._stopping = True
        jobs = [job for job in self._table.jobs.values() if not job.ended.is_set()]
        running = [job for job in jobs if job.worker is not None]
        for job in jobs:
            if job.worker is None:
                await self._table.hand_back(job)
        await self._wait_for_tasks(grace)
        for job in running:
            self._stop_running(job, stopping_error())
        await self._wait_for_tasks(self._config.stop_seconds)
        await self.close()

    async def close(self) -> None:
        """Forget the running jobs and end the workers at once."""
        self._stopping = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    async def _end_at_deadline(self, job: Job) -> None:
        """End a job at its deadline, unless it has ended by then."""
        seconds = (job.record.deadline - self._table.now()) / 1e9
        with suppress(TimeoutError):
            await asyncio.wait_for(job.ended.wait(), max(seconds, 0))
            return
        text = "stopped at its deadline; allow more time, or send it when fewer adaptations wait"
        while not job.ended.is_set():
            try:
                await self.stop_job(job, TimedOut("DEADLINE_PASSED", text))
            except StoreUnavailable:  # its end cannot be written down yet
                await self._table.until_writable()
            else:
                return

    def _assign(self, job: Job, share: int | None) -> bool | None:
        """Start a job, or end it if no worker can serve it.

        Return False if it has to wait, and None if only the share of its caller is used up.
        """
        if job.stop_reason is not None:
            return False  # its end is being written down
        try:
            workers = self._pool.workers_with(job.record.checkpoint)
        except MetanasError as error:
            job.stop_reason = error
            self._begin(self._table.fail(job, error))
            return True
        loads = [(self._jobs_on(worker), worker) for worker in workers]
        free = [(others, worker) for others, worker in loads if fits(job, others, self._config)]
        if share is not None and free:
            own = [sum(each.caller == job.caller for each in others) for others, _ in free]
            free = [each for each, count in zip(free, own, strict=True) if count < share]
            if not free:
                return None
        if free:
            self._start(job, min(free, key=lambda pair: len(pair[0]))[1])
        return bool(free)

    def cards_of(self, checkpoint: str) -> list[CheckpointCard]:
        """Return the card of a checkpoint, or those of all in the universal search space."""
        cards = self._pool.checkpoints
        return [cards[checkpoint]] if checkpoint in cards else list(cards.values())

    def _jobs_on(self, worker: Worker) -> list[Job]:
        return [job for job in self._table.jobs.values() if job.worker is worker]

    def _start(self, job: Job, worker: Worker) -> None:
        others = self._jobs_on(worker)
        self._turn = max(self._turn, job.turn)
        job.start_time = asyncio.get_running_loop().time()
        job.worker = worker
        if job.record.deadline:
            seconds = (job.record.deadline - self._table.now()) / 1e9
            job.limit = in_time(seconds, len(others) + 1, self.pace * self._ready)
        LOG.info(
            "adaptation %s: attempt %d on %s (%s), with %d others",
            *(job.record.id, job.record.attempts + 1, worker.device, worker.name, len(others)),
            extra=trace_fields(job.record.trace),
        )
        self._begin(self._attempt(job, worker))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_running(self, job: Job, reason: MetanasError) -> None:
        if job.stop_reason is None and job.worker is not None:
            job.stop_reason = reason
            job.worker.stop(job.number, self._config.stop_seconds)

    def _order(self, job: Job, support: Path) -> Order:
        record = job.record
        return Order(
            number=job.number,
            checkpoint=record.checkpoint,
            digest=self._pool.cards.digests[record.checkpoint],
            overrides=record.overrides,
            seed=record.seed,
            classes=record.classes,
            support=support,
        )

    async def _attempt(self, job: Job, worker: Worker) -> None:
        """Run a job on a worker, and record the beginning and the end."""
        try:
            await self._table.begin(job)
            async with self._table.support(job) as support:
                made = await self._run(job, worker, support)
            await self._table.succeed(job, made)
        except LeaseLost:
            pass  # the table has forgotten it
        except WorkerLost as error:
            await self._worker_lost(job, error, len(self._jobs_on(worker)))
        except Cancelled as error:
            await self._stopped(job, job.stop_reason or error)
        except MetanasError as error:
            await self._table.fail(job, error)
        except Exception as error:  # a defect must end one job only
            fields = trace_fields(job.record.trace)
            LOG.exception("adaptation %s", job.record.id, extra=fields)
            message = f"a defect of the server: {type(error).__name__}; its log has the traceback"
            await self._table.fail(job, ServiceError("INTERNAL", message))
        finally:
            job.worker = None
            self._count_end(job)
            self.dispatch()
            # When this caller no longer counts, others may have more.
            asyncio.get_running_loop().call_later(SHARE_SECONDS, self.dispatch)

    def _count_end(self, job: Job) -> None:
        self._shares.ended(job.caller)
        self._pace.count(job.start_time, asyncio.get_running_loop().time())

    async def _run(self, job: Job, worker: Worker, support: Path) -> Made:
        """Run a job on a worker within its time limit.

        Raises:
            WorkerKilled: the worker has died before it got the job.
            MetanasError: the error that ended the job.
        """
        if job.stop_reason is not None:  # while the beginning was written or the file read
            raise Cancelled
        if not worker.ready:
            raise WorkerKilled("WORKER_LOST", "the worker process died")
        seconds = job.record.timeout
        message = f"stopped after {seconds:g} s; ask for fewer steps or for more time"
        timeout = TimedOut("ADAPTATION_TIMEOUT", message)
        timer = asyncio.get_running_loop().call_later(seconds, self._stop_running, job, timeout)
        try:
            return await worker.give(self._order(job, support), job.add)
        finally:
            timer.cancel()

    async def _stopped(self, job: Job, reason: MetanasError) -> None:
        """End a job that was stopped, unless it has moved; a stopping server hands it back."""
        if job.has_moved:
            return
        if isinstance(reason, Unavailable):
            await self._table.hand_back(job)
        else:
            await self._table.fail(job, reason)

    async def _worker_lost(self, job: Job, error: WorkerLost, suspects: int) -> None:
        """Queue a job of a dead worker again, or end it after its last attempt.

        suspects: jobs that were on the worker.
        """
        losses = job.record.losses
        if not isinstance(error, WorkerKilled):
            losses, job.most = losses + 1, max(1, suspects // 2)
        if job.stop_reason is not None:
            await self._stopped(job, job.stop_reason)
        elif losses >= self._config.max_attempts and suspects == 1:
            await self._table.fail(job, lost_error(losses))
        elif self._stopping:
            await self._table.hand_back(job)
        else:
            with suppress(LeaseLost):
                await self._table.requeue(job, losses)
                heapq.heappush(self._queue, job)

    async def _wait_for_tasks(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


def fits(job: Job, others: Sequence[Job], config: ServerConfig) -> bool:
    """Return True if a job may run beside these: suspects among themselves, within the memory."""
    suspects = [each.most for each in (job, *others)]
    limits = [*suspects, *(each.limit for each in others)]
    most = min([config.max_stack, *(each for each in limits if each is not None)])
    same = all((each is None) == (job.most is None) for each in suspects)
    memory = sum(each.record.memory for each in (job, *others))
    fitting = not others or memory <= config.max_image_memory
    return same and fitting and len(others) < most


def in_time(seconds: float, number: int, pace: float) -> int | None:
    """Return the most jobs on a worker of which each ends within these seconds.

    Return None, no limit, if already `number` are too many, or if the pace is unknown.

    pace: seconds between two ends on this worker; 0 if it is unknown.
    """
    most = int(seconds / (SMALL_STACK * pace)) if pace else 0
    return most if most >= number else None
