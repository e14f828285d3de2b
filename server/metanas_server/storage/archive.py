"""Records together with their files: each record has its file, and each file a record."""

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import URL

from metanas_server.errors import ServiceError, StartError, StoreError, StoreUnavailable
from metanas_server.records.address import open_database
from metanas_server.records.models import ModelLimits
from metanas_server.records.records import Load, Records
from metanas_server.resources import (
    AdaptationRecord,
    ModelChange,
    ModelRecord,
    ProgressRecord,
)
from metanas_server.shielded import shielded
from metanas_server.storage.artefacts import Store, sha256
from metanas_server.storage.place import open_store

LOG = logging.getLogger(__name__)
REPAIR = "metanas-server repair"
PROBE_SECONDS = 1.0  # between two looks at a data folder that cannot be written

Value = TypeVar("Value")


@dataclass
class _FileLock:
    """The lock of one file, and the number of changes that hold it or wait for it."""

    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Archive:
    """Store adaptations with their support sets, and models.

    Records with equal content share one file. Changes run in other threads than the event loop's,
    and go on if their caller is cancelled. They are on the disk when their method returns. Those of
    records happen one after the other, and so do those of one file. A file without a record is
    deleted only if the database lists it as loose.

    After a change or the opening of a file that fails with `StoreUnavailable`, the archive is
    read-only until records and files can be written again.
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
        self._lock = asyncio.Lock()  # for the changes of records
        self._files = dict[str, _FileLock]()
        self._changes = set[asyncio.Future[Any]]()
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
        self,
        record: AdaptationRecord,
        support: Sequence[bytes | memoryview],
        caller: str = "",
        admit: Callable[[Load], None] | None = None,
        *,
        per_minute: int = 0,
        reuse: bool = False,
    ) -> AdaptationRecord:
        """Store a new adaptation and its support set; return the record with the file's digest.

        The other arguments are those of `Records.insert`.

        Raises:
            StoreUnavailable: nothing was stored.
        """
        stored = replace(record, support=await asyncio.to_thread(sha256, support))
        insert = partial(
            self.records.insert, stored, caller, admit, per_minute=per_minute, reuse=reuse
        )
        await self._whole(self._put(stored.support, support, insert))
        return stored

    async def update(
        self, record: AdaptationRecord, progress: Sequence[ProgressRecord] | None = None
    ) -> None:
        """Replace the record of an adaptation, and its progress if it is given.

        Raises:
            StoreUnavailable: nothing has changed.
        """
        await self._whole(self._change(lambda: self.records.update(record, progress)))

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
        update = self.records.update
        await self._whole(self._put(model.sha256, (onnx,), lambda: update(record, progress, model)))

    async def delete_adaptation(self, id_: str) -> None:
        """Delete the record of an adaptation that has ended.

        Raises:
            StoreUnavailable: it was not deleted.
        """

        def delete() -> None:
            self.records.delete_adaptation(id_)
            self.records.fill_reserve()

        await self._whole(self._change(delete))

    async def update_model(
        self, id_: str, scope: str | None, change: ModelChange, limits: ModelLimits
    ) -> ModelRecord:
        """Change a model; see `Models.update`."""
        update = partial(self.records.models.update, id_, scope, change, limits)
        return await self._whole(self._change(update))

    async def delete_model(
        self, id_: str, scope: str | None, *, unless_pinned: bool = False
    ) -> None:
        """Delete a model and, if no other model has the same bytes, its file.

        scope, unless_pinned: see `Models.delete`.

        Raises:
            NotFound: UNKNOWN_MODEL.
            StoreUnavailable: it was not deleted.
        """

        def delete() -> str:
            digest = self.records.models.delete(id_, scope, unless_pinned=unless_pinned)
            self.records.fill_reserve()
            return digest

        async def delete_both() -> None:
            await self._discard(await self._change(delete))

        await self._whole(delete_both())

    async def write_uses(self) -> None:
        """Write down which models were used.

        Raises:
            StoreUnavailable: later.
        """
        await self._whole(self._change(self.records.models.write_uses))

    async def discard(self, digest: str) -> None:
        """Delete a loose file unless a record needs it; if that fails, the next start does it."""
        await self._whole(self._discard(digest))

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[Path]:
        """Open a file of the store; see `Store.open`.

        Raises:
            StoreError: ARTEFACT_LOST, ARTEFACT_DAMAGED.
            StoreUnavailable: the store cannot be used now.
        """
        opened = ExitStack()
        enter = asyncio.to_thread(opened.enter_context, self.store.open(digest))
        opening = asyncio.ensure_future(self._noting_trouble(enter))
        try:
            yield await shielded(opening)
        finally:
            await asyncio.wait((opening,))  # its thread goes on if the caller is cancelled
            await asyncio.to_thread(opened.close)

    async def close(self) -> None:
        """Stop looking at the data folder, and close the database after the last change."""
        await asyncio.gather(*self._changes, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        async with self._lock:
            self.records.close()

    async def _whole(self, change: Coroutine[Any, Any, Value]) -> Value:
        """Finish a change also if its caller is cancelled."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await shielded(task)

    async def _put(
        self, digest: str, content: Sequence[bytes | memoryview], record: Callable[[], None]
    ) -> None:
        """Write a file and then its record; without the record the file goes again."""
        async with self._alone(digest):
            await self._change(lambda: self.records.files.loosen(digest))
            try:
                await self._noting_trouble(asyncio.to_thread(self.store.put, *content))
                await self._change(record)
            except ServiceError:
                await self._remove(digest)
                raise

    async def _discard(self, digest: str) -> None:
        async with self._alone(digest):
            await self._remove(digest)

    async def _remove(self, digest: str) -> None:
        """Delete a loose file unless a record needs it; if that fails, the next start does it."""
        with suppress(StoreError):  # damaged pages included
            discard = asyncio.to_thread(self.records.files.discard, digest, self.store.remove)
            await self._noting_trouble(discard)

    @asynccontextmanager
    async def _alone(self, digest: str) -> AsyncIterator[None]:
        """Keep other changes of the same file waiting: one could delete what the other needs."""
        lock = self._files.setdefault(digest, _FileLock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                del self._files[digest]

    async def _change(self, change: Callable[[], Value]) -> Value:
        async with self._lock:
            return await self._noting_trouble(asyncio.to_thread(change))

    async def _noting_trouble(self, work: Awaitable[Value]) -> Value:
        try:
            return await work
        except StoreUnavailable as error:
            if self._trouble is None:
                self._trouble = error
                self._writable.clear()
                self._watch = asyncio.get_running_loop().create_task(self._probe())
            raise

    async def _probe(self) -> None:
        """Wait until the data folder can be written again."""
        trouble = self._trouble
        cause = None if trouble is None else trouble.__cause__
        LOG.error("the data folder cannot be written: %s (%s)", trouble, cause)
        await self._on_change()
        while self._trouble is not None:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await asyncio.to_thread(self.store.probe)
                async with self._lock:
                    await asyncio.to_thread(self.records.probe)
            except StoreUnavailable as error:
                self._trouble = error
            else:
                self._trouble = None
        LOG.info("the data folder can be written again")
        self._writable.set()
        await self._on_change()


def open_archive(
    data: Path,
    address: Path | URL,
    on_change: Callable[[], Awaitable[None]],
    *,
    place: str | None = None,
) -> Archive:
    """Open the archive of a data folder, and delete what the last run has left half-done.

    address: of the database.
    place: see `open_store`.

    Raises:
        StartError: DATABASE_MISSING or DATABASE_OLDER, files have no record: with another database
            they may be models, so nothing is deleted; ARTEFACTS_FOREIGN, the files belong to
            another database. Also the errors of `open_database`.
        StoreUnavailable: the data folder cannot be written.
    """
    store = open_store(place, data)
    if isinstance(address, Path) and not address.exists() and store.digests():
        cause = f"{store.name} has files, but {address} is missing"
        _refuse(data, address, "DATABASE_MISSING", cause)
    host = socket.gethostname().partition(" ")[0]
    front = "" if isinstance(address, Path) else f"{host}-{secrets.token_hex(4)}"
    records = Records(open_database(address), front)
    try:
        if records.is_shared or place is not None:  # else the lock of the data folder is enough
            _place(records, store)
        orphans = len(sweep(records, store))
        if orphans and (damaged := len(records.damage.find())):
            LOG.error("%d records are damaged, and %d files may be theirs", damaged, orphans)
            LOG.error("all of them stay as they are; stop the server and run %s", REPAIR)
        elif orphans:
            cause = f"{address} does not know {orphans} files: it is too old"
            _refuse(data, address, "DATABASE_OLDER", cause)
    except BaseException:
        records.close()
        raise
    records.fill_reserve()
    return Archive(records, store, on_change)


def _place(records: Records, store: Store) -> None:
    """Tie a store to its database. With others each of both would delete files that are needed.

    Raises:
        StartError: ARTEFACTS_FOREIGN, one of them belongs to another one.
    """

    def put(mark: str, placed: bool) -> None:
        if placed and records.is_shared and not store.mark():
            message = (
                f"{store.name} has not the artefacts of this database; give all servers on it the"
                f" same --artefacts, or run {REPAIR} if these are the right ones"
            )
            raise StartError("ARTEFACTS_FOREIGN", message)
        if store.set_mark(mark) != mark:
            message = (
                f"the artefacts in {store.name} belong to another database; give each database"
                f" --artefacts of its own, or run {REPAIR} if the other one is gone"
            )
            raise StartError("ARTEFACTS_FOREIGN", message)

    records.files.place(put)


def _refuse(data: Path, address: Path | URL, reason: str, cause: str) -> NoReturn:
    is_file = isinstance(address, Path)
    restore = f"metanas-server restore BACKUP --data {data}" if is_file else "pg_restore"
    ways = f"restore a backup ({restore}), or put the files aside"
    raise StartError(reason, f"{cause}; {ways} (metanas-server repair --data {data})")


def sweep(records: Records, store: Store) -> set[str]:
    """Delete the unfinished writes and the loose files of the last run.

    A needed file moves back from the quarantine. Files that other fronts write now stay. Return the
    digests of files without a record.

    Raises:
        StoreUnavailable: the data folder cannot be written.
    """
    if not records.fronts.count():
        store.clean()
    needed = records.files.needed()
    for digest in needed - store.digests():
        store.release(digest)
    for digest in records.files.loose():
        records.files.discard(digest, store.remove)
    present = store.digests()  # before the next look at the records: a file is noted first
    if needed - present:
        LOG.warning("%d records have lost their file in %s", len(needed - present), store.name)
    unknown = present - records.files.known()
    return unknown & store.digests() if unknown else unknown
