"""Store artefacts: files named by the SHA-256 of their content, written whole or not at all."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metanas_server.errors import StoreError, StoreUnavailable

PARTIAL = ".partial"
UNFINISHED = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{8}\.partial")
ARTEFACT = re.compile(r"[0-9a-f]{64}")
QUARANTINE = "quarantine"
"""Folder for damaged artefacts and for those without a record. Only an operator deletes them."""
PROBE_BYTES = 65536  # a file system with room for this much is writable


class Store:
    """A folder of content-addressed files.

    A file is written under another name, flushed to the disk and then renamed. After a crash or on
    a full disk the file is whole or absent. All methods may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        """Use this folder; create it if it is missing.

        Raises:
            StoreUnavailable: STORE_FAILED, the folder cannot be created.
        """
        self.folder = folder
        with _as_store_error():
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, *parts: bytes | memoryview) -> str:
        """Store a file of these parts and return its SHA-256 in hexadecimal digits.

        A damaged file of the same name is replaced.

        Raises:
            StoreUnavailable: STORE_FULL or STORE_FAILED; no file is left.
        """
        digest = sha256(parts)
        path = self.path(digest)
        if self.is_sound(digest):
            return digest
        partial = path.with_name(f"{digest}.{secrets.token_hex(4)}{PARTIAL}")
        with _as_store_error():
            try:
                _write(partial, parts)
                partial.replace(path)
                _sync_folder(self.folder)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        return digest

    def copy(self, source: Path) -> None:
        """Store a copy of a file that its digest names.

        Raises:
            StoreError: ARTEFACT_DAMAGED, the copy has other bytes.
            StoreUnavailable: STORE_FULL or STORE_FAILED.
        """
        partial = self.folder / f"{source.name}.{secrets.token_hex(4)}{PARTIAL}"
        with _as_store_error():
            try:
                shutil.copyfile(source, partial)
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                partial.replace(self.path(source.name))
                _sync_folder(self.folder)
            finally:
                partial.unlink(missing_ok=True)
        self.check(source.name)

    def path(self, digest: str) -> Path:
        """Return the path of the bytes with this digest."""
        return self.folder / digest

    def digests(self) -> set[str]:
        """Return the digests of all files, without those in quarantine.

        Raises:
            StoreUnavailable: STORE_FAILED.
        """
        with _as_store_error():
            return {path.name for path in self.folder.iterdir() if ARTEFACT.fullmatch(path.name)}

    def is_sound(self, digest: str) -> bool:
        """Return True if the file with this digest exists and has its bytes.

        Raises:
            StoreUnavailable: STORE_FAILED, the file cannot be read.
        """
        with _as_store_error():
            return _is_sound(self.path(digest))

    def check(self, digest: str) -> None:
        """Compare the bytes of a file with its digest.

        Raises:
            StoreError: ARTEFACT_LOST, there is no such file; ARTEFACT_DAMAGED, its bytes differ.
            StoreUnavailable: STORE_FAILED, it cannot be read.
        """
        if not self.is_sound(digest):
            raise damaged(digest) if self.path(digest).exists() else _lost(digest)

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """Read at most `size` bytes from `offset` on: fewer at the end, none beyond it.

        Raises:
            StoreError: ARTEFACT_LOST, there is no such file.
            StoreUnavailable: STORE_FAILED, it cannot be read.
        """
        with _as_store_error(), _opened(self.path(digest)) as file:
            file.seek(offset)
            return file.read(size)

    def remove(self, digest: str) -> None:
        """Delete the file with this digest if it exists.

        Raises:
            StoreUnavailable: STORE_FAILED.
        """
        with _as_store_error():
            self.path(digest).unlink(missing_ok=True)

    def isolate(self, digest: str) -> None:
        """Move a file into the folder `quarantine` if it exists.

        Raises:
            StoreUnavailable: STORE_FAILED or STORE_FULL.
        """
        with _as_store_error():
            if self.path(digest).exists():
                (self.folder / QUARANTINE).mkdir(exist_ok=True)
                self.path(digest).rename(self.folder / QUARANTINE / digest)

    def release(self, digest: str) -> None:
        """Move a missing file back from the folder `quarantine` if it is there, and sound.

        Raises:
            StoreUnavailable: STORE_FAILED.
        """
        isolated = self.folder / QUARANTINE / digest
        with _as_store_error():
            if not self.path(digest).exists() and _is_sound(isolated):
                isolated.rename(self.path(digest))

    def clean(self) -> None:
        """Delete unfinished writes of the last run; all other files and folders stay.

        Raises:
            StoreUnavailable: STORE_FAILED.
        """
        with _as_store_error():
            for path in list(self.folder.iterdir()):
                if UNFINISHED.fullmatch(path.name):
                    path.unlink()

    def probe(self) -> None:
        """Check that a file can be written.

        Raises:
            StoreUnavailable: STORE_FULL or STORE_FAILED.
        """
        path = self.folder / f"{'0' * 64}.{secrets.token_hex(4)}{PARTIAL}"
        with _as_store_error():
            try:
                _write(path, (bytes(PROBE_BYTES),))
            finally:
                path.unlink(missing_ok=True)


def damaged(digest: str) -> StoreError:
    """Make the error for a file whose bytes have changed on the disk."""
    message = f"the file {digest} has changed on the disk; restore it from a backup, or adapt again"
    return StoreError("ARTEFACT_DAMAGED", message)


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


def _is_sound(path: Path) -> bool:
    """Return True if a file exists, and its digest is its name."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == path.name
    except FileNotFoundError:
        return False


def _lost(digest: str) -> StoreError:
    return StoreError("ARTEFACT_LOST", f"the file {digest} is gone")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise _lost(path.name) from error
    with file:
        yield file


@contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = "the server's disk is full; delete models or adaptations"
            raise StoreUnavailable("STORE_FULL", message) from error
        message = f"the data folder cannot be used: {error.strerror}"
        raise StoreUnavailable("STORE_FAILED", message) from error
