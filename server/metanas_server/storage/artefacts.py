"""Store artefacts: files named by the SHA-256 of their content, written whole or not at all."""

import errno
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

from metanas_server.errors import StoreError

LOG = logging.getLogger(__name__)
PARTIAL = ".partial"
UNFINISHED = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{8}\.partial")
ARTEFACT = re.compile(r"[0-9a-f]{64}")
QUARANTINE = "quarantine"
"""Folder for artefacts without a record. Only an operator deletes them."""


class Store:
    """A folder of content-addressed files.

    A file is written under another name, flushed to the disk and then renamed. After a crash or on
    a full disk the file is whole or absent. All methods may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        """Use this folder; create it if it is missing.

        Raises:
            StoreError: STORE_FAILED, the folder cannot be created.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _store_error(error) from error

    def put(self, *parts: bytes | memoryview) -> str:
        """Store a file of these parts and return its SHA-256 in hexadecimal digits.

        Raises:
            StoreError: STORE_FULL or STORE_FAILED; no file is left.
        """
        digest = sha256(parts)
        path = self.path(digest)
        if path.exists():
            return digest
        partial = path.with_name(f"{digest}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            _write(partial, parts)
            partial.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _store_error(error) from error
        return digest

    def path(self, digest: str) -> Path:
        """Return the path of the bytes with this digest."""
        return self._folder / digest

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """Read at most `size` bytes from `offset` on: fewer at the end, none beyond it.

        Raises:
            StoreError: ARTEFACT_LOST if there is no such file, STORE_FAILED if it cannot be read.
        """
        try:
            with self.path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError as error:
            raise StoreError("ARTEFACT_LOST", f"the file {digest} is gone") from error
        except OSError as error:
            raise _store_error(error) from error

    def remove(self, digest: str) -> None:
        """Delete the file with this digest if it exists."""
        self.path(digest).unlink(missing_ok=True)

    def sweep(self, needed: Collection[str]) -> None:
        """Clean up after the last run of the server.

        Unfinished writes are deleted. Artefacts without a record move into the folder
        `quarantine`, since the database may be lost; a needed artefact moves back from there. All
        other files and folders stay.

        needed: digests that a record refers to.

        Raises:
            StoreError: STORE_FAILED or STORE_FULL.
        """
        quarantine = self._folder / QUARANTINE
        try:
            for digest in needed:
                isolated = quarantine / digest
                if not self.path(digest).exists() and isolated.exists():
                    isolated.rename(self.path(digest))
            moved = 0
            for path in list(self._folder.iterdir()):
                if UNFINISHED.fullmatch(path.name):
                    path.unlink()
                elif ARTEFACT.fullmatch(path.name) and path.name not in needed:
                    quarantine.mkdir(exist_ok=True)
                    path.rename(quarantine / path.name)
                    moved += 1
        except OSError as error:
            raise _store_error(error) from error
        if moved:
            LOG.warning(
                "%d artefacts have no record and were moved to %s; if the database was lost, stop"
                " the server and restore it, else delete the folder",
                *(moved, quarantine),
            )


def sha256(parts: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256, in hexadecimal digits, of bytes that are given in parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _store_error(error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError("STORE_FULL", "the server's disk is full; delete models or adaptations")
    return StoreError("STORE_FAILED", f"the data folder cannot be used: {error.strerror}")
