"""Sharing: this front's part in the work of several fronts on one database.

Each front runs the adaptations that it has accepted. One without work takes some that wait at
others. When a front dies or leaves, another one takes all of its adaptations.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial

from metanas.errors import Cancelled
from metanas_server.errors import StoreUnavailable
from metanas_server.jobs.dispatcher import Dispatcher
from metanas_server.jobs.job_table import JobTable
from metanas_server.jobs.manager import JobManager
from metanas_server.jobs.mirrors import Mirrors
from metanas_server.records.fronts import Fronts

LOG = logging.getLogger(__name__)
BEATS = 5
"""Beats within a lease: some of them may be late."""
LONGEST_BEAT = 1.0
FLUSH_SECONDS = 0.1  # between two looks for new progress
PAUSE = 1.0  # seconds before the next try to hear notices

Listen = Callable[[], AsyncGenerator[tuple[str, str]]]


class Sharing:
    """Renew the lease of this front; take, give up and show adaptations.

    The lease has a thread of its own, so that no slow work of this front ends it. A front judges
    the others by their beats alone. The time between two of its looks counts at most as long as one
    beat: if it comes late itself, or the database was gone, the others may be late as well.
    """

    def __init__(
        self,
        fronts: Fronts,
        table: JobTable,
        dispatcher: Dispatcher,
        jobs: JobManager,
        *,
        mirrors: Mirrors,
        listen: Listen,
        lease: float,
    ) -> None:
        """Use the parts of the server.

        listen: yields the front and the adaptation of each change; the first pair is empty.
        lease: seconds without a sign of life after which a front counts as dead.
        """
        self._fronts = fronts
        self._table = table
        self._dispatcher = dispatcher
        self._jobs = jobs
        self._mirrors = mirrors
        self._listen = listen
        self._lease = lease
        self._period = min(lease / BEATS, LONGEST_BEAT)
        self._thread = ThreadPoolExecutor(1, "lease")
        self._silences = dict[str, tuple[int, float]]()
        """The last beat of each front, and the seconds for which it has stayed the same."""
        self._looked = 0.0
        self._elsewhere = set[tuple[str, str]]()
        """Adaptations that waited at other fronts at the last beat, with their fronts."""
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Work until this is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._beat, partial(asyncio.sleep, self._period)))
            tasks.create_task(self._repeat(self._share, self._pause))
            tasks.create_task(self._repeat(self._show, partial(asyncio.sleep, FLUSH_SECONDS)))
            tasks.create_task(self._repeat(self._hear, partial(asyncio.sleep, PAUSE)))

    async def leave(self) -> None:
        """Give the unfinished adaptations to the other fronts."""
        with suppress(StoreUnavailable):  # then the lease runs out
            await self._on_lease(self._fronts.leave)  # after a beat that has begun
        self._thread.shutdown(wait=False)

    async def _on_lease(self, change: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, change)

    async def _repeat(
        self, work: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        level = logging.WARNING
        while True:
            try:
                await work()
                level = logging.WARNING
            except StoreUnavailable as error:
                cause = error.__cause__
                LOG.log(level, "fronts cannot share the database now: %s (%s)", error, cause)
                level = logging.DEBUG  # one line for each outage
            except Exception:  # a defect must not end the lease
                LOG.exception("fronts cannot share the database")
            await pause()

    async def _pause(self) -> None:
        """Wait for the time of a beat, or for a notice of a change of this front's adaptations."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._period)
        self._hurry.clear()

    async def _beat(self) -> None:
        await self._on_lease(self._fronts.beat)

    async def _share(self) -> None:
        await self._bury()
        await self._compare()
        if not self._jobs.is_stopping:
            await self._jobs.take_orphans()
            await self._help()

    async def _bury(self) -> None:
        """Remove the fronts whose beat has been the same for the time of a lease."""
        beats = await asyncio.to_thread(self._fronts.beats)
        now = asyncio.get_running_loop().time()
        passed, self._looked = min(now - self._looked, self._lease / BEATS), now
        former, self._silences = self._silences, {}
        for id_, beat in beats.items():
            last, silence = former.get(id_, (None, 0.0))
            self._silences[id_] = beat, silence + passed if beat == last else 0.0
        silent = {
            id_: beat for id_, (beat, silence) in self._silences.items() if silence >= self._lease
        }
        dead = await asyncio.to_thread(self._fronts.bury, silent) if silent else 0
        if dead:
            LOG.warning("%s: silent for %g s, and dead", ", ".join(silent), self._lease)

    async def _compare(self) -> None:
        """Bring the jobs of this front into line with the database."""
        jobs = dict(self._table.jobs)
        for id_ in await asyncio.to_thread(self._fronts.taken_away, list(jobs)):
            self._dispatcher.lose(jobs[id_])
        mine = await asyncio.to_thread(self._fronts.mine)
        for id_, is_cancelled in mine.items():
            job = self._table.jobs.get(id_)
            if job is not None and is_cancelled:
                await self._dispatcher.stop_job(job, Cancelled("the adaptation was cancelled"))
        # The answer to a commit can be lost: then the adaptation has no job.
        unknown = mine.keys() - self._table.jobs.keys()
        if unknown and not self._jobs.is_stopping:
            await self._jobs.adopt(partial(self._fronts.take_again, unknown))

    async def _help(self) -> None:
        """Take adaptations that wait at other fronts now, and waited there at the last beat.

        Suspects stay where they are: their front tries them apart from others.
        """
        room = self._dispatcher.room
        found = await asyncio.to_thread(self._fronts.waiting_elsewhere, room) if room else []
        waiting = {(id_, front) for id_, front, record in found if not record.losses}
        again, self._elsewhere = waiting & self._elsewhere, waiting
        if again:
            await self._jobs.adopt(partial(self._fronts.claim, again))

    async def _show(self) -> None:
        """Write down new progress for the other fronts, as soon as there is one."""
        if len(self._silences) < 2:
            return
        jobs = [job for job in self._table.jobs.values() if len(job.progress) > job.written]
        new = {job.record.id: job.progress[job.written :] for job in jobs}
        if new:
            await asyncio.to_thread(self._fronts.write_progress, new)
        for job in jobs:
            job.written += len(new[job.record.id])

    async def _hear(self) -> None:
        """Follow the notices of the database while the connection lasts."""
        async with aclosing(self._listen()) as notices:
            async for front, id_ in notices:
                self._mirrors.notice(id_ or None)
                if front != self._fronts.name and id_ in self._table.jobs:
                    self._hurry.set()
