"""Artefacts: files named by the SHA-256 of their content, either whole or not there at all."""

import errno
import hashlib
import os
import secrets
from collections.abc import Collection
from pathlib import Path

from metanas_server.errors import StoreError

PARTIAL = ".partial"


class Store:
    """A folder of content-addressed files.

    A file is written under another name, flushed to the disk and then renamed, so that a crash or a
    full disk leaves either the whole file or none. All methods may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        """Use this folder; it is made if it is not there.

        Raises:
            StoreError: STORE_FAILED, the folder cannot be made.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _store_error(error) from error

    def put(self, data: bytes) -> str:
        """Keep these bytes; returns their SHA-256 in hexadecimal digits.

        Raises:
            StoreError: STORE_FULL or STORE_FAILED; nothing is left behind.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if path.exists():
            return digest
        partial = path.with_name(f"{digest}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            _write(partial, data)
            partial.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _store_error(error) from error
        return digest

    def path(self, digest: str) -> Path:
        """Where the bytes with this digest lie, if they are there."""
        return self._folder / digest

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on; fewer at the end, none beyond it.

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
        """Forget these bytes, if they are there."""
        self.path(digest).unlink(missing_ok=True)

    def sweep(self, keep: Collection[str]) -> None:
        """Remove everything but the files with these digests: what a crash has left behind."""
        for path in self._folder.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
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
    return StoreError("STORE_FAILED", f"the server's data folder does not work: {error.strerror}")
