"""The crew: gives waiting jobs to the workers, and replaces workers that die or hang."""

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from metanas.errors import Cancelled, CheckpointError, MetanasError
from metanas.spec.card import CheckpointCard
from metanas_server.config import ServerConfig
from metanas_server.cores import share
from metanas_server.errors import (
    ServiceError,
    StartError,
    StoreError,
    TimedOut,
    Unavailable,
    WorkerKilled,
    WorkerLost,
)
from metanas_server.jobs.lifecycle import Board, stopping
from metanas_server.jobs.live_job import LiveJob
from metanas_server.workers.process import WorkerProcess
from metanas_server.workers.protocol import Made, Order, changed

LOG = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0

OnHealth = Callable[[bool], Awaitable[None]]


class Crew:
    """Workers, the queue of jobs for them, and who has which job.

    Jobs are given out in the order in which they came, each to the worker that has the fewest.
    Those workers of the CPU that are busy have equal shares of the cores.

    A worker that dies is replaced, and its jobs are begun again. Nobody knows which of them it died
    of, so from then on each of them gets a worker to itself: those that are innocent end well, and
    one that kills its worker again is given up after `max_attempts`. A worker that was killed
    because a job did not stop is no evidence against the others.
    """

    def __init__(
        self,
        config: ServerConfig,
        board: Board,
        workers: Sequence[WorkerProcess],
        cores: int,
        on_health: OnHealth,
    ) -> None:
        """Use these workers; `on_health` is told when none is alive, and when one is again.

        cores: what the workers of the CPU share unless their number of threads is configured.
        """
        self.checkpoints: Mapping[str, CheckpointCard] = {}
        """Pinned at the start and at each reload; no worker serves another digest."""
        self._config = config
        self._board = board
        self._workers = tuple(workers)
        self._cores = cores
        self._on_health = on_health
        self._queue = list[LiveJob]()
        """A heap."""
        self._tasks = set[asyncio.Task[None]]()
        self._stopping = False
        self._reloading = asyncio.Lock()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are there."""
        return tuple(worker.pid for worker in self._workers if worker.pid is not None)

    async def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raises:
            MetanasError, ServiceError: why one of them cannot start.
        """
        first, *others = await asyncio.gather(*(worker.start() for worker in self._workers))
        if any(_digests(other) != _digests(first) for other in others):
            message = "the checkpoints changed while the workers loaded them; start again"
            raise StartError("CHECKPOINT_CHANGED", message)
        self.checkpoints = first
        for worker in self._workers:
            self._spawn(self._tend(worker))

    async def reload(self) -> bool:
        """Load the checkpoints again in all workers, and use them if all have the same.

        Jobs that run keep the checkpoint that they began with; those that wait get the new one.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> bool:
        workers = [worker for worker in self._workers if worker.ready]
        results = await asyncio.gather(
            *(worker.reload() for worker in workers), return_exceptions=True
        )
        errors = [each for each in results if isinstance(each, BaseException)]
        loaded = [each for each in results if not isinstance(each, BaseException)]
        same = bool(loaded) and all(_digests(each) == _digests(loaded[0]) for each in loaded)
        use = same and not errors
        for worker in workers:
            worker.adopt(loaded[0] if use else None)
        if use:
            self.checkpoints = loaded[0]
            LOG.info("checkpoints loaded again: %s", ", ".join(sorted(self.checkpoints)))
        else:
            why = errors[0] if errors else "the workers have read different files"
            LOG.error("the checkpoints were not loaded again: %s", why)
        self._dispatch()
        return use

    async def stop(self, grace: float) -> None:
        """Let running jobs end within `grace` seconds, then stop them, and end the workers.

        Jobs that have not ended stay in the records as queued.
        """
        self._stopping = True
        jobs = [job for job in self._board.jobs.values() if not job.ended.is_set()]
        waiting = [job for job in jobs if job.worker is None]
        running = [job for job in jobs if job.worker is not None]
        for job in waiting:
            self._board.hand_back(job)
        await _ended(running, grace)
        for job in running:
            self.end(job, stopping())
        await _ended(running, self._config.stop_seconds)
        await self.close()

    async def close(self) -> None:
        """End the workers at once."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._workers))

    def enqueue(self, job: LiveJob) -> None:
        """Have a job made when its turn comes."""
        self._board.add(job)
        self._wait(job)

    def end(self, job: LiveJob, why: MetanasError | ServiceError) -> None:
        """Have a job end for this reason: at once, or between two steps if a worker is at it."""
        if job.worker is None:
            self._board.end(job, why)
        elif job.stop is None:
            job.stop = why
            job.worker.stop(job.number, self._config.stop_seconds)

    def _wait(self, job: LiveJob) -> None:
        heapq.heappush(self._queue, job)
        # Not at once: whoever brings a job in may still have something to do to it.
        asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give out jobs and cores anew: what is waited for, or who is busy, has changed."""
        self._give_out()
        if not self._config.threads:
            self._share_cores()

    def _share_cores(self) -> None:
        workers = [each for each in self._workers if each.ready and each.device == "cpu"]
        threads = share(self._cores, sum(bool(self._load(each)) for each in workers))
        for worker in workers:
            worker.share(threads)

    def _give_out(self) -> None:
        """Give out jobs, the first first, until there is no place for the next one.

        Nobody overtakes: a job that needs a worker to itself would else wait for ever.
        """
        while self._queue and not self._stopping:
            job = self._queue[0]
            worker = self._place(job)
            if worker is None and not job.ended.is_set():
                if not self._is_lost(job):
                    return
                name = job.record.checkpoint
                self._board.end(job, CheckpointError("CHECKPOINT_CHANGED", changed(name)))
            heapq.heappop(self._queue)
            if worker is not None and not job.ended.is_set():  # else cancelled while it waited
                self._give(job, worker)

    def _holds(self, worker: WorkerProcess, job: LiveJob) -> bool:
        card = self.checkpoints.get(job.record.checkpoint)
        return card is not None and worker.holds(job.record.checkpoint, card.digest)

    def _is_lost(self, job: LiveJob) -> bool:
        """Return True if all workers are there and none holds the job's checkpoint."""
        return all(each.ready and not self._holds(each, job) for each in self._workers)

    def _place(self, job: LiveJob) -> WorkerProcess | None:
        """The worker with the fewest jobs of those that can take this one."""
        room = 1 if job.apart else self._config.max_stack
        open_ = list[tuple[int, WorkerProcess]]()
        for worker in self._workers:
            load = self._load(worker)
            able = worker.ready and self._holds(worker, job)
            if able and len(load) < room and not any(other.apart for other in load):
                open_.append((len(load), worker))
        return min(open_, key=lambda pair: pair[0])[1] if open_ else None

    def _load(self, worker: WorkerProcess) -> list[LiveJob]:
        return [job for job in self._board.jobs.values() if job.worker is worker]

    def _give(self, job: LiveJob, worker: WorkerProcess) -> None:
        try:
            self._board.begin(job)
        except StoreError as error:
            self._board.end(job, error)
            return
        together = [job, *self._load(worker)]
        job.worker = worker
        job.company = False
        for each in together:
            each.company = each.company or len(together) > 1
        LOG.info(
            "adaptation %s: attempt %d on %s (%d), with %d others",
            *(job.record.id, job.record.attempts, worker.device, worker.pid, len(together) - 1),
        )
        self._spawn(self._follow(job, worker.give(self._order(job), job.add)))

    def _order(self, job: LiveJob) -> Order:
        record = job.record
        return Order(
            number=job.number,
            checkpoint=record.checkpoint,
            digest=self.checkpoints[record.checkpoint].digest,
            overrides=record.overrides,
            seed=record.seed,
            classes=record.classes,
            support=self._board.support(job),
        )

    async def _follow(self, job: LiveJob, made: asyncio.Future[Made]) -> None:
        """See a job that a worker has been given to the end of this attempt."""
        seconds = job.record.timeout
        message = f"stopped after {seconds:g} s; ask for fewer steps or for more time"
        late = TimedOut("ADAPTATION_TIMEOUT", message)
        timer = asyncio.get_running_loop().call_later(seconds, self.end, job, late)
        try:
            await self._board.keep(job, await made)
        except WorkerLost as error:
            self._lost(job, error)
        except Cancelled as error:
            self._stopped(job, job.stop or error)
        except (MetanasError, ServiceError) as error:
            self._board.end(job, error)
        except Exception as error:  # a defect here must cost one job, not its worker's others
            LOG.exception("adaptation %s", job.record.id)
            self._board.end(job, ServiceError("INTERNAL", f"a defect: {type(error).__name__}"))
        finally:
            timer.cancel()
            job.worker = None
            self._dispatch()

    def _stopped(self, job: LiveJob, why: MetanasError | ServiceError) -> None:
        if isinstance(why, Unavailable):
            self._board.hand_back(job)
        else:
            self._board.end(job, why)

    def _lost(self, job: LiveJob, error: WorkerLost) -> None:
        if not isinstance(error, WorkerKilled):
            job.losses += 1
            job.apart = True
        if job.stop is not None:
            self._stopped(job, job.stop)
        elif job.losses >= self._config.max_attempts and not job.company:
            message = f"{job.losses} worker processes have died of this adaptation; it is given up"
            self._board.end(job, WorkerLost("WORKER_LOST", message))
        elif self._stopping:
            self._board.hand_back(job)
        else:
            self._requeue(job)

    def _requeue(self, job: LiveJob) -> None:
        try:
            self._board.requeue(job)
        except StoreError as error:
            self._board.end(job, error)
        else:
            self._wait(job)

    async def _tend(self, worker: WorkerProcess) -> None:
        """Put another process in the place of one that has died or hangs, again and again.

        A defect on the way is logged, and the worker process is replaced all the same.
        """
        while True:
            try:
                await self._watch(worker)
                LOG.warning("worker process %s has died; starting another one", worker.pid)
                if not any(each.ready for each in self._workers):
                    await self._on_health(False)
                await self._restart(worker)
                await self._on_health(True)
                self._dispatch()
            except Exception:
                LOG.exception("worker process %s cannot be tended; it is replaced", worker.pid)
                worker.kill()
                await asyncio.sleep(FIRST_PAUSE)

    async def _watch(self, worker: WorkerProcess) -> None:
        """Until the worker's end, which is brought about if it is silent for too long."""
        loop, longest = asyncio.get_running_loop(), self._config.max_silence
        while not worker.ended.is_set():
            silence = loop.time() - worker.heard
            if silence < longest:
                with suppress(TimeoutError):
                    await asyncio.wait_for(worker.ended.wait(), longest - silence)
            else:
                LOG.warning("worker process %d has been silent for %.0f s", worker.pid, silence)
                worker.kill()
                await worker.ended.wait()

    async def _restart(self, worker: WorkerProcess) -> None:
        pause = FIRST_PAUSE
        while True:
            pinned = self.checkpoints
            try:
                await worker.start()
            except Exception:
                LOG.exception("the worker process does not start; next try in %.1f s", pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if self.checkpoints is not pinned:
                    continue  # a reload came between: the process may hold the files before it
                for name, card in self.checkpoints.items():
                    if not worker.holds(name, card.digest):
                        LOG.error("worker process %s: %s", worker.pid, changed(name))
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _digests(cards: Mapping[str, CheckpointCard]) -> dict[str, str]:
    return {name: card.digest for name, card in cards.items()}


async def _ended(jobs: Sequence[LiveJob], seconds: float) -> None:
    """Wait until these jobs have ended, but no longer than this."""
    waits = [asyncio.ensure_future(job.ended.wait()) for job in jobs]
    if waits:
        _, late = await asyncio.wait(waits, timeout=seconds)
        for wait in late:
            wait.cancel()
