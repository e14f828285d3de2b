"""Maintenance of a data folder: backup, restore and repair. Nothing that is known is deleted.

A backup is a folder like the data folder: the database and the files that its records need.
"""

import shutil
import sqlite3
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL

from metanas_server.errors import StartError, StoreError, StoreUnavailable
from metanas_server.records.address import DATABASE, open_database
from metanas_server.records.damage import salvage
from metanas_server.records.migrate import Use, in_use
from metanas_server.records.records import Records
from metanas_server.resources import AdaptationRecord, State
from metanas_server.status import describe
from metanas_server.storage.archive import sweep
from metanas_server.storage.artefacts import QUARANTINE, Store, is_sound
from metanas_server.storage.folder_store import FolderStore
from metanas_server.storage.place import ARTEFACTS

TRIES = 10
"""Copies of the database until the running server deletes no file during the copy of the files."""
COMPANIONS = ("", "-wal", "-shm")
"""Endings of the files that belong to an SQLite database."""


def backup(database: Path, source: Store, target: Path) -> list[str]:
    """Copy the data of a server, which may run, to a new folder; return lines for people.

    database: the file of the records.
    source: the artefacts.

    Raises:
        StartError: BACKUP_INVALID, there is no database, or the target is not empty.
        StoreError: ARTEFACT_LOST, ARTEFACT_DAMAGED: all but this file was copied.
        StoreUnavailable: the target cannot be written.
    """
    _check_database(database)
    if target.exists() and any(target.iterdir()):
        raise StartError("BACKUP_INVALID", f"{target} is not empty; name a new folder")
    copies = FolderStore(target / ARTEFACTS)
    for _ in range(TRIES):
        _copy_database(database, target / DATABASE)
        needed = _needed(target / DATABASE)
        errors = [error for digest in sorted(needed) if (error := _copy(digest, source, copies))]
        if all(error.reason != "ARTEFACT_LOST" for error in errors):
            break  # else the server has deleted the file since: copy its newer database
    for digest in copies.digests() - needed:  # of an earlier copy of the database
        copies.remove(digest)
    if errors:
        message = f"{len(errors)} of {len(needed)} files were not copied: {errors[0]}"
        raise StoreError(errors[0].reason, message)
    return [f"copied the database and {len(needed)} files to {target}"]


def restore(database: Path, store: Store, source: Path) -> list[str]:
    """Replace the content of a data folder by a backup; return lines for people.

    store: the artefacts.

    All files of the backup are checked first. The former database moves into a folder `replaced-…`,
    and the files that the backup does not know move into quarantine. Tables of an older release are
    brought up to date.

    Raises:
        StartError: BACKUP_INVALID, there is no database, or a file is damaged or lost.
        StoreUnavailable: the data folder cannot be written.
    """
    _check_database(source / DATABASE)
    arrived = database.with_name(f"{database.name}.restored")
    arrived.unlink(missing_ok=True)
    _copy_database(source / DATABASE, arrived)
    open_database(arrived, Use.MIGRATE).close()
    needed = _needed(arrived)
    backed_up = FolderStore(source / ARTEFACTS)
    for digest in needed:
        error = _copy(digest, backed_up, store)
        if error is not None:
            raise StartError("BACKUP_INVALID", f"the backup is not complete: {error}")
    folder = _set_aside(database, "replaced")
    arrived.rename(database)
    lines = [] if folder is None else [f"moved the former database to {folder}"]
    return [*lines, f"restored the database and {len(needed)} files", *_isolate(database, store)]


def repair(data: Path, address: Path | URL, store: Store) -> list[str]:
    """Make stored data usable again without deleting anything; return lines for people.

    data: the data folder.
    address: of the database.
    store: the artefacts, which belong to this database from now on.

    A damaged file of SQLite is put aside for one with its readable records. Damaged records are
    mended, or move to a file of the data folder. Damaged files and those without a record move into
    quarantine. Adaptations without their support set end as failed.

    Raises:
        StartError: DATA_IN_USE, DATA_NOT_WRITABLE, DATABASE_VERSION, DATABASE_UNREACHABLE.
        StoreUnavailable: the data folder cannot be written.
    """
    lines, lost = list[str](), data / time.strftime("damaged-%Y%m%d-%H%M%S.jsonl")
    try:
        with closing(_open(address)) as records:
            _check_fronts(records)
            lines += records.damage.mend(lost)
    except StartError as error:
        if error.reason != "DATABASE_DAMAGED" or isinstance(address, URL):
            raise
        lines += _replace(address)
        with closing(_open(address)) as records:
            lines += records.damage.mend(lost)
    lines += _isolate(address, store)
    with closing(_open(address)) as records:
        for digest in sorted(records.files.needed()):
            try:
                store.check(digest)
            except StoreError as error:
                store.isolate(digest)
                lines.append(str(error))
        present = store.digests()
        for each in records.fronts.orphans():
            if each.record.support not in present:
                lines.append(_fail(records, each.record))
    return lines or ["nothing to repair"]


def _check_fronts(records: Records) -> None:
    """Refuse while servers use the database, and remove those that have died.

    Raises:
        StartError: DATA_IN_USE.
    """
    if names := records.fronts.running():
        raise in_use(names)
    records.fronts.bury(records.fronts.beats())


def _fail(records: Records, record: AdaptationRecord) -> str:
    lost = StoreError("ARTEFACT_LOST", "the support set is gone or damaged; send it again")
    failed = replace(record, state=State.FAILED, failure=describe(lost), support="")
    records.update(replace(failed, end_time=time.time_ns()))
    return f"adaptations/{record.id}: {lost}"


def _open(address: Path | URL) -> Records:
    return Records(open_database(address))


def _check_database(database: Path) -> None:
    if not database.is_file():
        message = f"{database.parent} has no {database.name}; name the data folder or the backup"
        raise StartError("BACKUP_INVALID", message)


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database that may be in use."""
    try:
        with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(target)) as copy:
            original.backup(copy)
    except sqlite3.Error as error:
        message = f"the database {source} cannot be copied to {target}: {error}"
        raise StartError("BACKUP_INVALID", f"{message}; check both folders") from error


def _needed(database: Path) -> set[str]:
    """Return the digests of the files that the records of a copy need.

    The tables of an older release stay as they are: another copy is brought up to date.
    """
    with TemporaryDirectory(dir=database.parent) as folder:
        newest = Path(folder, DATABASE)
        _copy_database(database, newest)
        with closing(Records(open_database(newest, Use.MIGRATE))) as records:
            return records.files.needed()


def _copy(digest: str, source: Store, target: Store) -> StoreError | None:
    """Copy and check a file; return the error of a lost or damaged one."""
    if is_sound(target, digest):
        return None
    with ExitStack() as opened:
        try:
            path = opened.enter_context(source.open(digest))
        except StoreUnavailable:
            raise
        except StoreError as error:
            return error
        target.copy(digest, path)
    return None


def _set_aside(database: Path, kind: str) -> Path | None:
    """Move the database into a new folder; return the folder, or None without a database."""
    if not database.exists():
        return None
    folder = database.with_name(time.strftime(f"{kind}-%Y%m%d-%H%M%S"))
    folder.mkdir()
    for ending in COMPANIONS:
        path = database.with_name(f"{database.name}{ending}")
        if path.exists():
            shutil.move(path, folder)
    return folder


def _replace(database: Path) -> list[str]:
    """Put a damaged file of SQLite aside, and copy its readable records into a new one."""
    folder = _set_aside(database, "damaged")
    assert folder is not None
    with closing(open_database(database)) as new:
        count = salvage(folder / database.name, new)
    return [f"moved the former database to {folder}, and copied {count} records from it"]


def _isolate(address: Path | URL, store: Store) -> list[str]:
    """Give the artefacts to the database, and move files without a record into quarantine."""
    lines, former = list[str](), store.mark()

    def put(mark: str, _: bool) -> None:
        if store.set_mark(mark, replace=True) != former and former:
            lines.append(f"the artefacts in {store.name} belong to this database from now on")

    with closing(_open(address)) as records:
        if records.is_shared or former:
            records.files.place(put)
        orphans = sweep(records, store)
    for digest in orphans:
        store.isolate(digest)
    if orphans:
        where = f"{store.name}/{QUARANTINE}"
        lines.append(f"moved {len(orphans)} files without a record to {where}")
    return lines
