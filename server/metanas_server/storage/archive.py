"""Records together with their files: each record has its file, and each file a record."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

from metanas_server.errors import StartError, StoreUnavailable
from metanas_server.resources import AdaptationRecord, ModelRecord, ProgressRecord
from metanas_server.storage.artefacts import Store, sha256
from metanas_server.storage.database import Records

LOG = logging.getLogger(__name__)
DATABASE, ARTEFACTS = "records.sqlite3", "artefacts"
PROBE_SECONDS = 1.0  # between two looks at a data folder that cannot be written

Value = TypeVar("Value")


class Archive:
    """Store adaptations with their support sets, and models.

    Records with equal content share one file. Changes happen one after the other, in other threads
    than the event loop's, and go on if their caller is cancelled. They are on the disk when their
    method returns. A file without a record is deleted only if the database lists it as loose.

    After a change that fails with `StoreUnavailable`, the archive is read-only until the data
    folder can be written again.
    """

    def __init__(
        self, records: Records, store: Store, on_change: Callable[[], Awaitable[None]]
    ) -> None:
        """Use these records and files.

        on_change: called when the archive becomes read-only and when it becomes writable.
        """
        self.records = records
        self.store = store
        self._trouble: StoreUnavailable | None = None
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_writable(self) -> bool:
        """False after a failed change, until the data folder can be written again."""
        return self._trouble is None

    def check_writable(self) -> None:
        """Refuse work that cannot be written down.

        Raises:
            StoreUnavailable: the data folder cannot be written now.
        """
        if self._trouble is not None:
            error = self._trouble
            raise StoreUnavailable(error.reason, error.message)

    async def until_writable(self) -> None:
        """Wait while the data folder cannot be written."""
        await self._writable.wait()

    async def add(
        self, record: AdaptationRecord, support: Sequence[bytes | memoryview]
    ) -> AdaptationRecord:
        """Store a new adaptation and its support set; return the record with the file's digest.

        Raises:
            StoreUnavailable: nothing was stored.
        """

        def add() -> AdaptationRecord:
            stored = replace(record, support=sha256(support))
            self._put(stored.support, support, lambda: self.records.insert(stored))
            return stored

        return await self._change(add)

    async def update(
        self, record: AdaptationRecord, progress: Sequence[ProgressRecord] | None = None
    ) -> None:
        """Replace the record of an adaptation, and its progress if it is given.

        Raises:
            StoreUnavailable: nothing has changed.
        """
        await self._change(lambda: self.records.update(record, progress))

    async def finish(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord],
        model: ModelRecord,
        onnx: bytes,
    ) -> None:
        """Store a model and the final record of its adaptation.

        Raises:
            StoreUnavailable: neither was stored.
        """

        def finish() -> None:
            update = self.records.update
            self._put(model.sha256, (onnx,), lambda: update(record, progress, model))

        await self._change(finish)

    async def delete_adaptation(self, id_: str) -> None:
        """Delete the record of an adaptation that has ended.

        Raises:
            StoreUnavailable: it was not deleted.
        """

        def delete() -> None:
            self.records.delete_adaptation(id_)
            self.records.fill_reserve()

        await self._change(delete)

    async def delete_model(self, id_: str, scope: str | None) -> None:
        """Delete a model and, if no other model has the same bytes, its file.

        scope: see `Records`.

        Raises:
            NotFound: UNKNOWN_MODEL.
            StoreUnavailable: it was not deleted.
        """

        def delete() -> None:
            self._discard(self.records.delete_model(id_, scope))
            self.records.fill_reserve()

        await self._change(delete)

    async def write_uses(self) -> None:
        """Write down which models were used.

        Raises:
            StoreUnavailable: later.
        """
        await self._change(self.records.write_uses)

    async def discard(self, digest: str) -> None:
        """Delete a loose file unless a record needs it; if that fails, the next start does it."""
        with suppress(StoreUnavailable):
            await self._change(lambda: self._discard(digest))

    async def close(self) -> None:
        """Stop looking at the data folder, and close the database after the last change."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        async with self._lock:
            self.records.close()

    def _put(
        self, digest: str, content: Sequence[bytes | memoryview], record: Callable[[], None]
    ) -> None:
        """Write a file and then its record; without the record the file goes again."""
        self.records.loosen(digest)
        try:
            self.store.put(*content)
            record()
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                self._discard(digest)
            raise

    def _discard(self, digest: str) -> None:
        if not self.records.needs(digest):
            self.store.remove(digest)
        with suppress(StoreUnavailable):  # a full disk: the next start forgets it
            self.records.forget(digest)

    async def _change(self, change: Callable[[], Value]) -> Value:
        return await asyncio.shield(asyncio.ensure_future(self._in_thread(change)))

    async def _in_thread(self, change: Callable[[], Value]) -> Value:
        async with self._lock:
            try:
                return await asyncio.to_thread(change)
            except StoreUnavailable as error:
                if self._trouble is None:
                    self._trouble = error
                    self._writable.clear()
                    self._watch = asyncio.get_running_loop().create_task(self._probe())
                raise

    async def _probe(self) -> None:
        """Wait until the data folder can be written again."""
        LOG.error("the data folder cannot be written: %s", self._trouble)
        await self._on_change()
        while self._trouble is not None:
            await asyncio.sleep(PROBE_SECONDS)
            async with self._lock:
                try:
                    await asyncio.to_thread(self.store.probe)
                    await asyncio.to_thread(self.records.probe)
                except StoreUnavailable as error:
                    self._trouble = error
                else:
                    self._trouble = None
        LOG.info("the data folder can be written again")
        self._writable.set()
        await self._on_change()


def open_archive(data: Path, on_change: Callable[[], Awaitable[None]]) -> Archive:
    """Open the archive of a data folder, and delete what the last run has left half-done.

    Raises:
        StartError: DATABASE_MISSING or DATABASE_OLDER, files have no record: with another database
            they may be models, so nothing is deleted. DATA_NOT_WRITABLE, DATABASE_DAMAGED.
        StoreUnavailable: the data folder cannot be written.
    """
    store, path = Store(data / ARTEFACTS), data / DATABASE
    if not path.exists() and store.digests():
        _refuse(data, "DATABASE_MISSING", f"{store.folder} has files, but {path} is missing")
    records = Records(path)
    try:
        orphans = len(sweep(records, store))
        if orphans:
            _refuse(data, "DATABASE_OLDER", f"{path} does not know {orphans} files: it is too old")
    except BaseException:
        records.close()
        raise
    records.fill_reserve()
    return Archive(records, store, on_change)


def _refuse(data: Path, reason: str, cause: str) -> NoReturn:
    ways = f"restore a backup (metanas-server restore BACKUP --data {data}), or put the files aside"
    raise StartError(reason, f"{cause}; {ways} (metanas-server repair --data {data})")


def sweep(records: Records, store: Store) -> set[str]:
    """Delete the unfinished writes and the loose files of the last run.

    A needed file moves back from the quarantine. Return the digests of files without a record.

    Raises:
        StoreUnavailable: the data folder cannot be written.
    """
    store.clean()
    needed = records.digests()
    for digest in needed - store.digests():
        store.release(digest)
    for digest in records.loose():
        store.remove(digest)
        records.forget(digest)
    present = store.digests()
    if needed - present:
        LOG.warning("%d records have lost their file in %s", len(needed - present), store.folder)
    return present - needed
