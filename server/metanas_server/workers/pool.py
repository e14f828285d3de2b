"""The pool of worker processes: starts them, replaces those that die, reloads their checkpoints."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress

from metanas.errors import CheckpointError, UnknownName
from metanas.spec.card import CheckpointCard
from metanas_server.cores import share
from metanas_server.errors import StartError
from metanas_server.workers.link import Launcher
from metanas_server.workers.protocol import Cards, Setup, changed_message
from metanas_server.workers.worker import Worker

LOG = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds between two tries to start a worker

OnChange = Callable[[], Awaitable[None]]


class WorkerPool:
    """Worker processes that all serve the same checkpoints.

    cards: those of `start` or the last `reload`; no worker serves another digest.
    restarts: processes that were replaced.
    """

    def __init__(
        self,
        setups: Sequence[Setup],
        launcher: Launcher,
        *,
        quorum: int,
        cores: int | None,
        max_silence: float,
        on_change: OnChange,
    ) -> None:
        """Make a worker for each of these settings.

        quorum: workers that must be ready for `start` to end; the others follow.
        cores: CPU cores that the workers share; None if each has its own number of threads.
        max_silence: seconds without a message after which a worker is killed.
        on_change: called when a worker dies, starts or fails to start, and after a reload.
        """
        self.cards = Cards()
        self.restarts = 0
        self._workers = tuple(Worker(setup, launcher) for setup in setups)
        self._launcher = launcher
        self._quorum = quorum
        self._cores = cores
        self._max_silence = max_silence
        self._on_change = on_change
        self._failed_starts = set[Worker]()
        """Workers without a process, because the last start failed."""
        self._supervisors = list[asyncio.Task[None]]()
        self._reload_lock = asyncio.Lock()

    @property
    def checkpoints(self) -> Mapping[str, CheckpointCard]:
        """Cards of the checkpoints by name."""
        return self.cards.checkpoints

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All workers, also those without a process."""
        return self._workers

    @property
    def is_ready(self) -> bool:
        """True if a worker is ready."""
        return any(worker.ready for worker in self._workers)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that have a process."""
        return tuple(worker.pid for worker in self._workers if worker.pid is not None)

    async def start(self) -> None:
        """Start all workers and wait until `quorum` of them are ready.

        Raises:
            MetanasError: why one of them cannot start.
        """
        loop = asyncio.get_running_loop()
        starts = [loop.create_task(worker.start()) for worker in self._workers]
        try:
            first, *others = await self._wait_for_quorum(starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            raise
        if any(other.digests != first.digests for other in others):
            message = "the checkpoints changed while the workers loaded them; start again"
            raise StartError("CHECKPOINT_CHANGED", message)
        first.check()
        self.cards = first
        self._supervisors = [
            loop.create_task(self._supervise(worker, start))
            for worker, start in zip(self._workers, starts, strict=True)
        ]

    async def _wait_for_quorum(self, starts: Sequence[asyncio.Task[Cards]]) -> list[Cards]:
        """Return the cards of the workers that are ready, as soon as they are enough.

        Raises:
            MetanasError: so many workers could not start that they cannot be enough.
        """
        waiting = set(starts)
        while waiting:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            ended = [start for start in starts if start not in waiting]
            errors = [error for start in ended if (error := start.exception()) is not None]
            if len(errors) > len(starts) - self._quorum:
                raise errors[0]
            if len(ended) - len(errors) >= self._quorum:
                break
        return [start.result() for start in ended if start.exception() is None]

    async def close(self) -> None:
        """End the workers at once."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._workers))
        await self._launcher.close()

    def workers_with(self, checkpoint: str) -> list[Worker]:
        """Return the workers that can serve this checkpoint now.

        An empty list means: wait for a worker that starts and may have it. While others are ready,
        a worker whose start failed does not count.

        Raises:
            UnknownName: UNKNOWN_CHECKPOINT, a reload has removed it.
            CheckpointError: CHECKPOINT_CHANGED, no worker has it.
        """
        digest = self.cards.digests.get(checkpoint)
        if digest is None:
            raise UnknownName("checkpoint", checkpoint, tuple(self.checkpoints))
        ready = [worker for worker in self._workers if worker.ready]
        suitable = [worker for worker in ready if worker.has(checkpoint, digest)]
        starting = len(self._workers) - len(ready) - len(self._failed_starts)
        if ready and not suitable and not starting:
            raise CheckpointError("CHECKPOINT_CHANGED", changed_message(checkpoint))
        return suitable

    def share_cores(self, busy: Collection[Worker]) -> None:
        """Divide the cores among the busy workers of the CPU."""
        if self._cores is None:
            return
        workers = [each for each in self._workers if each.ready and each.device == "cpu"]
        threads = share(self._cores, sum(each in busy for each in workers))
        for worker in workers:
            worker.share(threads)

    async def reload(self) -> bool:
        """Load the checkpoints again in all workers, and use them if all have the same.

        Running jobs keep the checkpoint that they began with; waiting jobs get the new one.
        A reload waits until a worker is ready. Returns False, with the reason in the log, if the
        old checkpoints stay in use.
        """
        async with self._reload_lock:
            while not (workers := [worker for worker in self._workers if worker.ready]):
                await asyncio.sleep(FIRST_PAUSE)
            results = await asyncio.gather(
                *(worker.reload() for worker in workers), return_exceptions=True
            )
            loaded = _agreed(results)
            for worker in workers:
                worker.adopt(loaded)
            if loaded is not None:
                self.cards = loaded
                LOG.info("checkpoints loaded again: %s", ", ".join(sorted(loaded.checkpoints)))
            await self._on_change()
            return loaded is not None

    async def _supervise(self, worker: Worker, start: asyncio.Task[Cards] | None) -> None:
        """Follow the first start, and replace the worker's process whenever it dies or hangs.

        A defect on the way is logged, and the process is replaced all the same.
        """
        while True:
            try:
                await self._until_started(worker, start)
                await self._on_change()
                await self._wait_for_death(worker)
                LOG.warning("worker process %s has died; starting another one", worker.name)
                self.restarts += 1
                start = None
                await self._on_change()
            except Exception:
                LOG.exception("worker process %s cannot be watched; it is replaced", worker.name)
                worker.kill()
                await asyncio.sleep(FIRST_PAUSE)

    async def _wait_for_death(self, worker: Worker) -> None:
        """Return when the process has died; kill it if it is silent for too long."""
        loop = asyncio.get_running_loop()
        while not worker.ended.is_set():
            silence = loop.time() - worker.last_message
            if silence < self._max_silence:
                with suppress(TimeoutError):
                    await asyncio.wait_for(worker.ended.wait(), self._max_silence - silence)
            else:
                LOG.warning("worker process %s has been silent for %.0f s", worker.name, silence)
                worker.kill()
                await worker.ended.wait()

    async def _until_started(self, worker: Worker, start: asyncio.Task[Cards] | None) -> None:
        """Wait for this start, or start another process; try again until it is ready."""
        pause = FIRST_PAUSE
        while True:
            before = self.cards
            try:
                await (start or worker.start())
            except Exception:
                start = None
                LOG.exception("the worker process does not start; next try in %.1f s", pause)
                self._failed_starts.add(worker)
                await self._on_change()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._failed_starts.discard(worker)
            async with self._reload_lock:
                # Start again with the files of a reload that came between.
                if self.cards is before or worker.cards.digests == self.cards.digests:
                    break
                start = None
        for name, digest in self.cards.digests.items():
            if not worker.has(name, digest):
                LOG.error("worker process %s: %s", worker.name, changed_message(name))


def _agreed(
    results: Sequence[Cards | BaseException],
) -> Cards | None:
    """Return the cards that all workers have loaded; None if they differ or one has failed."""
    errors = [each for each in results if isinstance(each, BaseException)]
    loaded = [each for each in results if not isinstance(each, BaseException)]
    if loaded and not errors and all(each.digests == loaded[0].digests for each in loaded):
        return loaded[0]
    reason = errors[0] if errors else "the workers have read different files"
    LOG.error("the checkpoints were not loaded again: %s", reason)
    return None
