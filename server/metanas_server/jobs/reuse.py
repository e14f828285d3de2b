"""Reuse: requests that an earlier adaptation answers, since they or their work are the same.

The work of a request is all that decides its model: the support set, the options, the seed, the
checkpoint by its digest, and the release of the program.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from metanas.errors import InvalidInput
from metanas.spec.examples import Example
from metanas_server.errors import ServiceError, StoreUnavailable
from metanas_server.jobs.job import Job
from metanas_server.records.records import Records
from metanas_server.resources import AdaptationRecord, Spec
from metanas_server.storage import support_file
from metanas_server.storage.archive import Archive
from metanas_server.storage.artefacts import is_sound, sha256

PROGRAM = ("metanas", "metanas-server")
"""The distributions whose releases decide a model."""
Packed = Sequence[bytes | memoryview]


@dataclass(frozen=True)
class Accepted:
    """The answer to a request: an adaptation by its id.

    reused: True if another request with the same work has made it.
    """

    id: str
    reused: bool = False


class Reuse:
    """Find the adaptations that answer a request. All methods wait for the database."""

    def __init__(self, archive: Archive, jobs: Mapping[str, Job]) -> None:
        """Look among the records of an archive, and the unfinished jobs of this front."""
        self._archive = archive
        self._records: Records = archive.records
        self._jobs = jobs

    def known(self, record: AdaptationRecord, *, reuse: bool) -> Accepted | None:
        """Return the adaptation of the same request, or with `reuse` one that is at its work.

        Raises:
            InvalidInput: REQUEST_ID_REUSED, another request has the id.
        """
        same = self._records.by_request(record.owner, record.request_id)
        if same is not None:
            if same.request_digest == record.request_digest:
                return Accepted(same.id)
            message = f"request id {same.request_id!r} stands for another request; make a new one"
            raise InvalidInput.single("spec.request_id", "REQUEST_ID_REUSED", message)
        twins = self._records.twins(record, finished=False) if reuse else []
        for twin in twins:
            job = self._jobs.get(twin.id)
            is_stopping = job is not None and job.stop_reason is not None
            if twin.outlasts(record) and not is_stopping:
                return Accepted(twin.id, reused=True)
        return None

    def finished(self, record: AdaptationRecord, spec: Spec) -> Accepted | None:
        """Return the adaptation of the same request, or one that has made its model.

        Raises:
            InvalidInput: REQUEST_ID_REUSED, another request has the id.
        """
        same = self.known(record, reuse=False)
        if same is not None:
            return same
        for twin in self._records.twins(record, finished=True):
            if self._has_model(twin, spec):
                self._records.models.mark_used(twin.id)
                return Accepted(twin.id, reused=True)
        return None

    def _has_model(self, twin: AdaptationRecord, spec: Spec) -> bool:
        """Return True if there is a sound model of the checkpoint, which can change before work."""
        try:
            model = self._records.models.get(twin.id, twin.owner)
        except StoreUnavailable:
            raise
        except ServiceError:  # deleted since, or damaged
            return False
        made_from = json.loads(model.report_json).get("checkpoint_digest")
        return made_from == spec.checkpoint_digest and is_sound(self._archive.store, model.sha256)


def record_of(
    spec: Spec,
    examples: Sequence[Example],
    packed: Packed,
    *,
    owner: str,
    longest: float,
    now: int,
) -> AdaptationRecord:
    """Return the record of a new adaptation.

    packed: the file of the support set, in parts.
    longest: most seconds on a worker.
    now: the time by which deadlines are set.
    """
    support = sha256(packed)
    fields = [support, spec.checkpoint, dict(spec.overrides), spec.seed, spec.classes]
    others = [spec.timeout, spec.deadline, spec.priority, spec.reuse]
    releases = [version(name) for name in PROGRAM]
    return AdaptationRecord(
        id=secrets.token_hex(8),
        owner=owner,
        checkpoint=spec.checkpoint,
        overrides=spec.overrides,
        seed=spec.seed,
        classes=spec.classes,
        labels=support_file.labels_of(examples, spec.classes),
        example_count=len(examples),
        support="",
        request_id=spec.request_id,
        request_digest=_digest([*fields, *others]),
        work=_digest([*fields, spec.checkpoint_digest, *releases]),
        timeout=longest if spec.timeout is None else min(spec.timeout, longest),
        priority=spec.priority,
        deadline=0 if spec.deadline is None else now + round(spec.deadline * 1e9),
        create_time=time.time_ns(),
    )


def _digest(fields: Sequence[object]) -> str:
    return sha256((json.dumps(fields, sort_keys=True).encode(),))
