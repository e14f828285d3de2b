"""The job manager: accepts, shows, cancels and deletes adaptations.

All methods run on the event loop's thread. The record in the database is the state of a job. The
job table has the rest in memory while a job is unfinished: its place, worker and watchers.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

from metanas.errors import Cancelled
from metanas.spec.examples import Example
from metanas_server.callers.access import Caller
from metanas_server.config import ServerConfig
from metanas_server.errors import AlreadyAccepted, LeaseLost, NotEnded
from metanas_server.jobs.admission import Admission
from metanas_server.jobs.dispatcher import Dispatcher, lost_error
from metanas_server.jobs.job import Event, Job
from metanas_server.jobs.job_table import JobTable, stopping_error
from metanas_server.jobs.memory import memory_of
from metanas_server.jobs.mirrors import Mirrors
from metanas_server.jobs.reuse import Accepted, Reuse, record_of
from metanas_server.observation.spans import TRACE
from metanas_server.records.fronts import Taken
from metanas_server.resources import AdaptationRecord, ProgressRecord, Spec, State
from metanas_server.shielded import shielded
from metanas_server.storage import support_file
from metanas_server.storage.archive import Archive

LOG = logging.getLogger(__name__)


class JobManager:
    """All adaptations of this server.

    scope: the owner whose adaptations the caller sees; None stands for all owners. Those of other
    owners are answered as if they did not exist.
    """

    def __init__(
        self,
        config: ServerConfig,
        archive: Archive,
        table: JobTable,
        dispatcher: Dispatcher,
        mirrors: Mirrors,
    ) -> None:
        self._config = config
        self._mirrors = mirrors
        self._archive = archive
        self._records = archive.records
        self._table = table
        self._jobs = table.jobs
        self._dispatcher = dispatcher
        self._numbers = itertools.count(1)
        self._admission = Admission(config, archive.records, dispatcher)
        self._reuse = Reuse(archive, table.jobs)
        self._stopping = False
        self._submit_lock = asyncio.Lock()  # two copies of one request must make one adaptation

    @property
    def is_stopping(self) -> bool:
        """True if this front accepts and takes no more adaptations."""
        return self._stopping

    async def take_orphans(self) -> None:
        """Queue the unfinished adaptations of fronts that are gone: the last run of this server.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        await self.adopt(self._records.fronts.orphans)

    async def adopt(self, take: Callable[[], Sequence[Taken]]) -> None:
        """Queue adaptations that belong to this front from now on.

        A job that was running has lost an attempt: it may be the cause of its front's death.

        take: takes them in the database.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        async with self._submit_lock:  # meanwhile each adaptation of this front has its job
            taken = [
                each for each in await asyncio.to_thread(take) if each.record.id not in self._jobs
            ]
            jobs = [
                Job(next(self._numbers), each.record, each.caller or each.record.owner)
                for each in taken
            ]
            for job in jobs:
                self._table.add(job)
                self._mirrors.end(job.record.id)
        suspects = sum(job.record.state is State.RUNNING for job in jobs)
        for job, each in zip(jobs, taken, strict=True):
            with suppress(LeaseLost):
                await self._queue_again(job, suspects, is_cancelled=each.cancel)

    async def _queue_again(self, job: Job, suspects: int, *, is_cancelled: bool) -> None:
        if is_cancelled:
            await self._table.fail(job, Cancelled("the adaptation was cancelled"))
            return
        if job.record.state is State.RUNNING:
            job.most = max(1, suspects // 2)
            await self._table.requeue(job, job.record.losses + 1)
            if job.record.losses >= self._config.max_attempts and suspects == 1:
                await self._table.fail(job, lost_error(job.record.losses))
                return
        self._dispatcher.enqueue(job)

    async def stop(self, grace: float) -> None:
        """Accept no more adaptations; end or hand back those that have not ended."""
        self._stopping = True
        async with self._submit_lock:
            pass  # a request that was being accepted is in the queue now
        await self._dispatcher.stop(grace)

    @asynccontextmanager
    async def place(self, caller: Caller, spec: Spec) -> AsyncIterator[None]:
        """Hold a place in the queue while a support set is received and submitted.

        A request that has no chance is refused before its support set is received.

        Raises:
            Unavailable: SERVER_STOPPING.
            Overloaded: QUEUE_FULL, CALLER_QUOTA, CALLER_RATE, DEADLINE_TOO_SHORT.
            QuotaReached: STORE_PINNED.
            StoreUnavailable: the data folder cannot be written.
        """
        self._check_open()
        if spec.reuse or await self._is_known(caller, spec):
            yield  # an earlier adaptation may be the answer
            return
        self._archive.check_writable()
        async with self._admission.place(caller, spec):
            yield

    async def _is_known(self, caller: Caller, spec: Spec) -> bool:
        if not spec.request_id:
            return False
        by_request = self._records.by_request
        return await asyncio.to_thread(by_request, caller.owner, spec.request_id) is not None

    def _check_open(self) -> None:
        if self._stopping:
            raise stopping_error()

    async def submit(self, spec: Spec, examples: Sequence[Example], caller: Caller) -> Accepted:
        """Accept an adaptation; the same request gets the same one again.

        With `reuse` the same work of the owner gets the same one: one whose model is still there,
        or one that has not ended.

        examples: the support set, checked except for its pixels.

        Raises:
            InvalidInput, Overloaded, QuotaReached, Unavailable, StoreUnavailable: it was not
                accepted.
        """
        # If the caller leaves now, the adaptation is still accepted as a whole or not at all.
        accept = asyncio.ensure_future(self._accept(spec, examples, caller))
        accepted = await shielded(accept)
        if accepted.reused:
            self._table.metrics.reuse()
        return accepted

    async def _accept(self, spec: Spec, examples: Sequence[Example], caller: Caller) -> Accepted:
        packed, record = await asyncio.to_thread(self._pack, spec, examples, caller.owner)
        if spec.reuse:
            made = await asyncio.to_thread(self._reuse.finished, record, spec)
            if made is not None:
                return made
        limits, budget = self._config.limits, self._config.max_image_memory
        cards = self._dispatcher.cards_of(record.checkpoint)
        memory = await asyncio.to_thread(memory_of, examples, limits, budget, cards)
        record = replace(record, memory=memory, trace=TRACE.get())
        find = partial(self._reuse.known, record, reuse=spec.reuse)
        async with self._submit_lock:
            while (known := await asyncio.to_thread(find)) is None:
                self._check_open()
                self._archive.check_writable()
                await self._admission.check(caller, spec)
                with suppress(AlreadyAccepted):  # by another front: look again
                    return await self._add(record, packed, spec, caller)
            return known

    async def _add(
        self,
        record: AdaptationRecord,
        packed: Sequence[bytes | memoryview],
        spec: Spec,
        caller: Caller,
    ) -> Accepted:
        """Store and queue a new adaptation.

        Raises:
            AlreadyAccepted: another front has accepted the same request, or is at the same work.
        """
        record = await self._archive.add(
            record,
            packed,
            caller.name,
            partial(self._admission.admit, spec=spec),
            per_minute=self._admission.per_minute,
            reuse=spec.reuse,
        )
        LOG.info(
            "adaptation %s: accepted from %s, request id %r, %d examples of %d classes",
            *(record.id, caller.name, record.request_id),
            *(record.example_count, len(record.labels)),
        )
        job = Job(next(self._numbers), record, caller.name)
        self._table.add(job)
        self._dispatcher.enqueue(job)
        return Accepted(record.id)

    def _pack(
        self, spec: Spec, examples: Sequence[Example], owner: str
    ) -> tuple[list[bytes | memoryview], AdaptationRecord]:
        """Return the parts of the support set's file, and the record of a new adaptation."""
        packed, longest = support_file.pack(examples), self._config.max_seconds
        now = self._records.clock.earliest()
        return packed, record_of(spec, examples, packed, owner=owner, longest=longest, now=now)

    async def get(
        self, id_: str, scope: str | None
    ) -> tuple[AdaptationRecord, ProgressRecord | None]:
        """Return an adaptation and its last progress.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        job = self._find(id_, scope)
        record = await self._read(id_, scope) if job is None else job.record
        return record, await self.last_progress(id_)

    async def last_progress(self, id_: str) -> ProgressRecord | None:
        """Return the last progress of an adaptation; None before the first."""
        last = self._last_of(id_)
        if last is None:
            return await asyncio.to_thread(self._records.last_progress, id_)
        return last

    def page(
        self, before: int | None, count: int, state: State | None, scope: str | None
    ) -> list[tuple[int, AdaptationRecord, ProgressRecord | None]]:
        """Return adaptations as `Records.adaptations` does, with the progress of unfinished ones.

        This takes long: call it from another thread than the event loop's.
        """
        return [
            (number, record, last or self._last_of(record.id))
            for number, record, last in self._records.adaptations(before, count, state, scope)
        ]

    async def events(self, id_: str, scope: str | None, after: int = 0) -> AsyncIterator[Event]:
        """Yield the adaptation as it is, its progress beyond `after`, and its final state.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
            Unavailable: the server stops before the adaptation has ended.
        """
        while True:
            job = self._find(id_, scope)
            record = await self._read(id_, scope) if job is None else job.record
            if record.state.final:
                source = self._past(record, after)
            else:
                source = self._mirrors.events(record, after) if job is None else job.events(after)
            try:
                async with aclosing(source):
                    async for event in source:
                        after = event.sequence if isinstance(event, ProgressRecord) else after
                        yield event
            except LeaseLost:  # it has moved to another front, or to this one
                continue
            return

    async def _past(self, record: AdaptationRecord, after: int) -> AsyncGenerator[Event]:
        """Yield the events of an adaptation that has ended."""
        yield record
        for entry in await asyncio.to_thread(self._records.progress, record.id):
            if entry.sequence > after:
                yield entry
        yield record

    async def cancel(self, id_: str, scope: str | None) -> None:
        """Stop an adaptation between two steps; one that has ended stays as it is.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
            StoreUnavailable: the data folder cannot be written, and the adaptation goes on.
        """
        job = self._find(id_, scope)
        if job is not None:
            await self._dispatcher.stop_job(job, Cancelled("the adaptation was cancelled"))
            if not job.has_moved:
                return
        record = await self._read(id_, scope)
        if not record.state.final:
            await self._cancel_elsewhere(id_)

    async def _cancel_elsewhere(self, id_: str) -> None:
        """Take and end an adaptation that waits at another front; tell that front if it runs."""
        fronts = self._records.fronts

        def take() -> list[Taken]:
            return [replace(each, cancel=True) for each in fronts.take_waiting(id_)]

        await self.adopt(take)
        await asyncio.to_thread(fronts.ask_to_cancel, id_)

    async def delete(self, id_: str, scope: str | None) -> None:
        """Delete an adaptation that has ended.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
            NotEnded: ADAPTATION_NOT_ENDED.
            StoreUnavailable: it was not deleted.
        """
        record, _ = await self.get(id_, scope)
        if not record.state.final:
            message = f"adaptations/{id_} has not ended; cancel it first"
            raise NotEnded("ADAPTATION_NOT_ENDED", message)
        await self._archive.delete_adaptation(id_)

    def _last_of(self, id_: str) -> ProgressRecord | None:
        job = self._jobs.get(id_)
        return job.progress[-1] if job is not None and job.progress else None

    def _find(self, id_: str, scope: str | None) -> Job | None:
        """Return the job of an unfinished adaptation within the scope."""
        job = self._jobs.get(id_)
        return job if job is not None and scope in (None, job.record.owner) else None

    async def _read(self, id_: str, scope: str | None) -> AdaptationRecord:
        return await asyncio.to_thread(self._records.adaptation, id_, scope)
