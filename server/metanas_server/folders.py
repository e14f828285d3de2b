"""The folders that one server uses at a time, and their locks."""

import fcntl
import logging
import os
from pathlib import Path

from sqlalchemy import URL

from metanas_server.disk import make_folder
from metanas_server.errors import StartError
from metanas_server.storage.place import folder_of

LOG = logging.getLogger(__name__)


def folders_of(data: Path, address: Path | URL, place: str | None) -> list[Path]:
    """Return the folders that one process may use at a time.

    They are the data folder and, with SQLite, those of its file and of the artefacts: two databases
    on the same artefacts would delete files that the other one needs.

    address: of the database.
    place: the option `artefacts`.
    """
    folders = [data]
    if isinstance(address, Path):
        artefacts = None if place is None else folder_of(place, data)
        folders += [address.parent, *([] if artefacts is None else [artefacts])]
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def lock_folder(folder: Path) -> int:
    """Lock a folder for this process while the returned file handle is open.

    Raises:
        StartError: DATA_NOT_WRITABLE, DATA_IN_USE.
    """
    try:
        make_folder(folder)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if folder.stat().st_mode & 0o007:
            LOG.warning("other users can enter the folder %s; run: chmod o= %s", folder, folder)
    except OSError as error:
        permit = "let this user write to it, or " if isinstance(error, PermissionError) else ""
        ways = f"{permit}choose another folder"
        message = f"the folder {folder} cannot be written: {error.strerror}; {ways}"
        raise StartError("DATA_NOT_WRITABLE", message) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        message = (
            f"the folder {folder} is in use by another server; stop it or choose another folder"
        )
        raise StartError("DATA_IN_USE", message) from error
    return handle
