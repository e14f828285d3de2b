"""Checks of the stored data: folders, records, files, and free disk."""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL

from metanas_server.config import ServerConfig
from metanas_server.doctor.findings import FAILURE, GIB, OK, WARNING, Found
from metanas_server.errors import StartError, StoreError, StoreUnavailable
from metanas_server.records.address import open_database, read_address
from metanas_server.records.damage import Flaw
from metanas_server.records.migrate import Use
from metanas_server.records.records import Records
from metanas_server.storage.artefacts import QUARANTINE, Store
from metanas_server.storage.folder_store import FolderStore
from metanas_server.storage.place import folder_of, open_store

MOST_FLAWS = 20  # damaged records with a line of their own
REPAIR = "stop the server, and run metanas-server repair"
LITTLE_DISK, TOO_LITTLE_DISK = 2 * GIB, GIB // 10


def store(config: ServerConfig) -> Iterator[Found]:
    """Check the folders of the server, its records, and the files that they need."""
    faults = list[str]()
    for folder, option in _places(config).items():
        fault = _fault(folder, option)
        if fault:
            faults.append(fault)
            yield FAILURE, fault
        elif folder.exists():
            yield OK, f"{folder}{' is in use by a server' if in_use(folder) else ''}"
        else:
            yield OK, f"{folder} will be created"
    if faults:
        return
    address, artefacts = read_address(config.records, config.data), _artefacts(config)
    if artefacts is not None:
        store = FolderStore(artefacts) if artefacts.exists() else None
        yield from _records(address, store, str(artefacts))
        return
    with TemporaryDirectory() as scratch:
        yield from _records(address, open_store(config.artefacts, Path(scratch)), "the bucket")


def _records(address: Path | URL, store: Store | None, place: str) -> Iterator[Found]:
    """Check the records, and that each file that one of them needs is there and undamaged.

    store: at this place; None if its folder does not exist.
    """
    is_file = isinstance(address, Path)
    restore = "metanas-server restore" if is_file else "pg_restore, and the artefacts of its time"
    ways = f"restore a backup ({restore})"
    if isinstance(address, Path) and not address.exists():
        if store is not None and store.digests():
            yield FAILURE, f"{address} is gone, but not its files; check --records, or {ways}"
        return
    try:
        with closing(Records(open_database(address, Use.LOOK))) as records:
            digests = sorted(records.files.needed())
            mark, flaws = records.files.mark(), records.damage.find()
    except StartError as error:
        if error.reason != "DATABASE_EMPTY":
            raise
        yield OK, str(error)
        return
    yield from _flaws(flaws)
    if store is None:
        if digests:
            text = f"{place} does not exist, but the records need {len(digests)} files in it"
            yield FAILURE, f"{text}; check --artefacts, or {ways}"
        else:
            yield OK, "0 of 0 files are whole"
        return
    if store.mark() not in ("", mark):
        text = f"the artefacts in {store.name} belong to another database"
        yield FAILURE, f"{text}; check --artefacts and --records"
    yield from check_files(address, digests, store, ways)


def check_files(place: Path | URL, files: list[str], store: Store, ways: str) -> Iterator[Found]:
    """Check files; a running server may delete those that its records do not need any more."""
    try:
        found = {digest: _state(store, digest) for digest in files}
    except StoreUnavailable as error:
        yield FAILURE, f"{store.name} cannot be read: {error}; check its disk, or AWS_* of a bucket"
        return
    if "lost" in found.values():
        with closing(Records(open_database(place, Use.LOOK))) as records:
            found = {each: found[each] for each in records.files.needed() & found.keys()}
    states = Counter(found.values())
    for state in ("lost", "damaged"):
        if states[state]:
            yield FAILURE, f"{states[state]} of {len(found)} files are {state}; {ways}"
    yield OK, f"{states['whole']} of {len(found)} files are whole"
    if store.isolated():
        where = f"{store.name}/{QUARANTINE}"
        yield WARNING, f"{where} has files without a record; delete them if no model is missing"


def _flaws(flaws: Sequence[Flaw]) -> Iterator[Found]:
    for flaw in flaws[:MOST_FLAWS]:
        yield FAILURE, f"the record of {flaw.name} has changed on the disk; {REPAIR}"
    if more := len(flaws[MOST_FLAWS:]):
        yield FAILURE, f"{more} more records have changed on the disk; {REPAIR}"


def disk(config: ServerConfig) -> Iterator[Found]:
    """Check the free room on the disks that the server writes to."""
    artefacts = _artefacts(config)
    with_models = None if artefacts is None else _existing(artefacts).stat().st_dev
    disks = {_existing(folder).stat().st_dev: folder for folder in reversed(list(_places(config)))}
    for disk, folder in reversed(list(disks.items())):
        free = shutil.disk_usage(_existing(folder)).free
        text = f"{free / GIB:.1f} GiB free in {folder}"
        if free < LITTLE_DISK:
            level = FAILURE if free < TOO_LITTLE_DISK else WARNING
            models = "delete models (metanas models delete) or " if disk == with_models else ""
            yield level, f"{text}; {models}enlarge the disk"
        else:
            yield OK, text


def _places(config: ServerConfig) -> Mapping[Path, str]:
    """Return the folders that the server writes to, and the option that names each."""
    places = [(config.data, "data")]
    address, artefacts = read_address(config.records, config.data), _artefacts(config)
    if isinstance(address, Path):
        places.append((address.parent, "records"))
    if config.artefacts is not None and artefacts is not None:
        places.append((artefacts, "artefacts"))
    first = {folder.resolve(): (folder, option) for folder, option in reversed(places)}
    return dict(reversed(list(first.values())))


def _artefacts(config: ServerConfig) -> Path | None:
    return folder_of(config.artefacts, config.data)


def _fault(folder: Path, option: str) -> str:
    """Return why the server cannot write to a folder, and what to do; empty if it can."""
    near = _existing(folder)
    if not near.is_dir():
        return f"{near} is no folder; choose another --{option}"
    if os.access(near, os.W_OK | os.X_OK):
        return ""
    if near != folder.resolve():
        ways = f"make {folder} for this user, or choose another --{option}"
        return f"{near} cannot be written by this user; {ways}"
    ways = f"run the server as its owner (user id {near.stat().st_uid}), or give it to this user"
    return f"{near} cannot be written by this user; {ways}"


def _existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    path = path.resolve()
    return next(each for each in (path, *path.parents) if each.exists())


def in_use(folder: Path) -> bool:
    """Return True if a server has locked the folder."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _state(store: Store, digest: str) -> str:
    """Return "whole", "lost" or "damaged"; raises `StoreUnavailable`."""
    try:
        store.check(digest)
    except StoreError as error:
        if isinstance(error, StoreUnavailable):
            raise
        return "lost" if error.reason == "ARTEFACT_LOST" else "damaged"
    return "whole"
