"""Mirrors: jobs of other fronts that callers of this front watch."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from metanas_server.errors import LeaseLost, NotFound, StoreError, StoreUnavailable
from metanas_server.jobs.job import Event, Job
from metanas_server.records.fronts import Fronts
from metanas_server.resources import AdaptationRecord

LOG = logging.getLogger(__name__)
PERIOD = 1.0  # seconds between two looks at a job without a notice of a change


@dataclass
class _Mirror:
    job: Job
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    follower: asyncio.Task[None] | None = None


class Mirrors:
    """One mirror for each watched job, however many watchers it has.

    A mirror reads the job from the database, as soon as there is a notice that it has changed, and
    at the latest after `PERIOD`.
    """

    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self._mirrors = dict[str, _Mirror]()

    async def events(self, record: AdaptationRecord, after: int) -> AsyncGenerator[Event]:
        """Yield the events of an unfinished adaptation as `Job.events` does.

        Raises:
            NotFound: UNKNOWN_ADAPTATION, it was deleted meanwhile.
            LeaseLost: it belongs to this front now.
            StoreError: RECORD_DAMAGED.
        """
        mirror = self._mirrors.get(record.id)
        if mirror is None:
            mirror = self._mirrors[record.id] = _Mirror(Job(0, record, ""))
            follower = self._follow(mirror)
            mirror.follower = asyncio.get_running_loop().create_task(follower)
        mirror.watchers += 1
        try:
            async with aclosing(mirror.job.events(after)) as source:
                async for event in source:
                    yield event
        finally:
            mirror.watchers -= 1
            if not mirror.watchers and mirror.follower is not None:
                mirror.follower.cancel()
                if self._mirrors.get(record.id) is mirror:
                    del self._mirrors[record.id]

    def notice(self, id_: str | None) -> None:
        """Look at a job that has changed; None stands for all jobs."""
        chosen = self._mirrors.values() if id_ is None else [self._mirrors.get(id_)]
        for mirror in chosen:
            if mirror is not None:
                mirror.changed.set()

    def end(self, id_: str) -> None:
        """End the mirror of a job that this front has taken; the watchers go on with the job.

        A front that is alone writes down no progress that a mirror could read.
        """
        mirror = self._mirrors.pop(id_, None)
        if mirror is not None:
            mirror.job.interrupt(LeaseLost("ADAPTATION_MOVED", "this front has the adaptation"))
            mirror.changed.set()

    async def _follow(self, mirror: _Mirror) -> None:
        job = mirror.job
        while not job.ended.is_set():
            mirror.changed.clear()
            try:
                await self._look(job)
            except NotFound as error:
                job.interrupt(error)
            except StoreUnavailable as error:
                LOG.debug("cannot follow adaptation %s now: %s", job.record.id, error)
            except StoreError as error:  # its record is damaged
                job.interrupt(error)
            with suppress(TimeoutError):
                await asyncio.wait_for(mirror.changed.wait(), PERIOD)

    async def _look(self, job: Job) -> None:
        last = job.progress[-1].sequence if job.progress else 0
        record, progress = await asyncio.to_thread(self._fronts.news, job.record.id, last)
        for entry in progress:
            job.append(entry)
        if record != job.record:
            job.change(record)
