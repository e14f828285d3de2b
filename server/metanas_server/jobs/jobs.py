"""The job engine: takes adaptations in, cancels and deletes them, and lets them be watched.

Everything here happens on the event loop's thread. The truth about a job is its record; what is in
memory beside it is only what a job needs while it is not finished: the `board`. The `crew` has the
models made.
"""

import asyncio
import hashlib
import itertools
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from metanas.errors import Cancelled, UnknownName
from metanas.spec.examples import Example
from metanas_server.config import ServerConfig
from metanas_server.errors import NotEnded, Overloaded, RequestIdReused
from metanas_server.jobs.lifecycle import Board, stopping
from metanas_server.jobs.live_job import Event, LiveJob
from metanas_server.jobs.scheduler import Crew
from metanas_server.resources import AdaptationRecord, ProgressRecord, Spec, State
from metanas_server.storage import support_file
from metanas_server.storage.archive import Archive

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request of a caller, complete and checked."""

    spec: Spec
    examples: tuple[Example, ...]
    caller: str


class Jobs:
    """All adaptations of this server."""

    def __init__(self, config: ServerConfig, archive: Archive, board: Board, crew: Crew) -> None:
        self._config = config
        self._archive = archive
        self._records = archive.records
        self._board = board.jobs
        self._crew = crew
        self._numbers = itertools.count(1)
        self._stopping = False
        self._door = asyncio.Lock()  # two copies of one request must not come in side by side

    def recover(self) -> None:
        """Take up what the last run of the server has left unfinished."""
        checkpoints = self._crew.checkpoints
        for record in self._records.unfinished():
            live = self._enqueue(replace(record, state=State.QUEUED), caller="")
            if record.checkpoint not in checkpoints:
                error = UnknownName("checkpoint", record.checkpoint, tuple(checkpoints))
                self._crew.end(live, error)

    async def stop(self, grace: float) -> None:
        """Take nothing in any more and end or hand back what there is."""
        self._stopping = True
        async with self._door:
            pass  # whoever was in the door is in the queue now
        await self._crew.stop(grace)

    def admit(self, caller: str, request_id: str) -> None:
        """Tell early whether a request has a chance: before its support set is received.

        Raises:
            Unavailable: SERVER_STOPPING.
            Overloaded: QUEUE_FULL, CALLER_QUOTA.
        """
        if self._stopping:
            raise stopping()
        if self._records.by_request(request_id) is not None:
            return  # it costs nothing, it is there already
        board = self._board.values()
        waiting = sum(live.record.state is State.QUEUED for live in board)
        if waiting >= self._config.max_queue:
            message = f"{waiting} adaptations are waiting already; try again shortly"
            raise Overloaded("QUEUE_FULL", message)
        mine = sum(live.caller == caller and not live.record.state.final for live in board)
        if mine >= self._config.max_jobs_per_caller:
            message = f"{mine} of your adaptations have not ended yet; wait for one of them"
            raise Overloaded("CALLER_QUOTA", message)

    async def submit(self, asked: Submission) -> AdaptationRecord:
        """Take an adaptation in, or find the one that the same request has made before.

        Raises:
            RequestIdReused, Overloaded, Unavailable, StoreError: nothing was taken in.
        """
        packed, digest = await asyncio.to_thread(_pack, asked)
        async with self._door:
            known = self._known(asked, digest)
            if known is not None:
                return known
            self.admit(asked.caller, "")
            record = await self._archive.add(self._record(asked, digest), packed)
            LOG.info(
                "adaptation %s: accepted from %s, request id %r, %d examples of %d classes",
                *(record.id, asked.caller, record.request_id),
                *(record.example_count, len(record.labels)),
            )
            return self._enqueue(record, asked.caller).record

    def get(self, id_: str) -> tuple[AdaptationRecord, ProgressRecord | None]:
        """An adaptation and its last sign of life.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        live = self._board.get(id_)
        record = self._records.adaptation(id_) if live is None else live.record
        return record, self.last_progress(id_)

    def last_progress(self, id_: str) -> ProgressRecord | None:
        """The last sign of life of an adaptation, if there was any."""
        live = self._board.get(id_)
        progress = self._records.progress(id_) if live is None else live.progress
        return progress[-1] if progress else None

    async def events(self, id_: str, after: int = 0) -> AsyncIterator[Event]:
        """The adaptation as it is, its progress beyond `after`, and its final state at the end.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
            Unavailable: the server stops before the adaptation has ended.
        """
        live = self._board.get(id_)
        if live is not None:
            async for event in live.events(after):
                yield event
            return
        record = self._records.adaptation(id_)
        yield record
        for entry in self._records.progress(id_):
            if entry.sequence > after:
                yield entry
        yield record

    def cancel(self, id_: str) -> None:
        """Stop an adaptation between two steps; one that has ended stays as it is.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        live = self._board.get(id_)
        if live is None:
            self._records.adaptation(id_)
        else:
            self._crew.end(live, Cancelled("the adaptation was cancelled"))

    def delete(self, id_: str) -> None:
        """Forget an adaptation that has ended.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
            NotEnded: ADAPTATION_NOT_ENDED.
        """
        if not self.get(id_)[0].state.final:
            message = f"adaptations/{id_} has not ended; cancel it first"
            raise NotEnded("ADAPTATION_NOT_ENDED", message)
        self._records.delete_adaptation(id_)
        self._board.pop(id_, None)

    def _known(self, asked: Submission, digest: str) -> AdaptationRecord | None:
        """The adaptation that this request id stands for."""
        record = self._records.by_request(asked.spec.request_id)
        if record is None:
            return None
        if record.request_digest != digest:
            message = f"request id {record.request_id!r} stands for another request; make a new one"
            raise RequestIdReused("REQUEST_ID_REUSED", message)
        live = self._board.get(record.id)
        return record if live is None else live.record

    def _record(self, asked: Submission, digest: str) -> AdaptationRecord:
        longest = self._config.max_seconds
        return AdaptationRecord(
            id=secrets.token_hex(8),
            checkpoint=asked.spec.checkpoint,
            overrides=asked.spec.overrides,
            seed=asked.spec.seed,
            classes=asked.spec.classes,
            labels=support_file.labels_of(asked.examples, asked.spec.classes),
            example_count=len(asked.examples),
            support="",
            request_id=asked.spec.request_id,
            request_digest=digest,
            timeout=longest if asked.spec.timeout is None else min(asked.spec.timeout, longest),
            create_time=time.time_ns(),
        )

    def _enqueue(self, record: AdaptationRecord, caller: str) -> LiveJob:
        live = LiveJob(next(self._numbers), record, caller)
        self._crew.enqueue(live)
        return live


def _pack(asked: Submission) -> tuple[bytes, str]:
    """The support set as it is stored, and a digest of everything that makes two requests equal."""
    packed = support_file.pack(asked.examples)
    spec = [asked.spec.checkpoint, dict(asked.spec.overrides), asked.spec.seed, asked.spec.classes]
    head = json.dumps(spec, sort_keys=True).encode()
    return packed, hashlib.sha256(head + hashlib.sha256(packed).digest()).hexdigest()
