"""The store of artefacts: bytes under the SHA-256 of their content, in a folder or in a bucket."""

import errno
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from metanas_server.errors import StoreError, StoreUnavailable

ARTEFACT = re.compile(r"[0-9a-f]{64}")
QUARANTINE = "quarantine"
"""Folder for damaged artefacts and for those without a record. Only an operator deletes them."""
MARK = "database"
"""Name of the file with the mark of the database that the artefacts belong to."""
PROBE_BYTES = 65536  # a store with room for this much is writable


class Store(Protocol):
    """A store of artefacts. All methods may be called from any thread, and may take long.

    An artefact is whole or absent. Each method raises `StoreUnavailable` if the store cannot be
    used now: STORE_FULL or STORE_FAILED.
    """

    @property
    def name(self) -> str:
        """The folder or the address of the bucket, for messages."""
        ...

    def put(self, *parts: bytes | memoryview) -> str:
        """Store these parts as one artefact and return its digest; replace a damaged one."""
        ...

    def copy(self, digest: str, source: Path) -> None:
        """Store a copy of a file with this digest.

        Raises:
            StoreError: ARTEFACT_DAMAGED, the copy has other bytes.
        """
        ...

    def open(self, digest: str) -> AbstractContextManager[Path]:
        """Open an artefact as a file with the right bytes, which may be deleted at the exit.

        The digest is the name of the file.

        Raises:
            StoreError: ARTEFACT_LOST, there is no such artefact; ARTEFACT_DAMAGED, its bytes
                differ.
        """
        ...

    def check(self, digest: str) -> None:
        """Compare the bytes of an artefact with its digest.

        Raises:
            StoreError: see `open`.
        """
        ...

    def digests(self) -> set[str]:
        """Return the digests of all artefacts, without those in quarantine."""
        ...

    def isolated(self) -> set[str]:
        """Return the digests of the artefacts in quarantine."""
        ...

    def remove(self, digest: str) -> None:
        """Delete an artefact if it exists."""
        ...

    def isolate(self, digest: str) -> None:
        """Move an artefact into quarantine if it exists."""
        ...

    def release(self, digest: str) -> None:
        """Move a missing artefact back from quarantine if it is there, and sound."""
        ...

    def clean(self) -> None:
        """Delete unfinished writes of the last run; everything else stays."""
        ...

    def probe(self) -> None:
        """Check that an artefact can be written."""
        ...

    def mark(self) -> str:
        """Return the mark of the database that the artefacts belong to; empty without one."""
        ...

    def set_mark(self, mark: str, *, replace: bool = False) -> str:
        """Set the mark unless there is one; return the mark that is there now.

        replace: set it in any case.
        """
        ...


def is_sound(store: Store, digest: str) -> bool:
    """Return True if a store has this artefact with the right bytes.

    Raises:
        StoreUnavailable: the store cannot be used now.
    """
    try:
        store.check(digest)
    except StoreUnavailable:
        raise
    except StoreError:
        return False
    return True


def damaged(digest: str) -> StoreError:
    """Make the error for an artefact whose bytes have changed in the store."""
    message = f"the file {digest} has changed on the disk; restore it from a backup, or adapt again"
    return StoreError("ARTEFACT_DAMAGED", message)


def lost(digest: str) -> StoreError:
    """Make the error for an artefact that is not in the store."""
    return StoreError("ARTEFACT_LOST", f"the file {digest} is gone")


def sha256(parts: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256, in hexadecimal digits, of bytes that are given in parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn the errors of a file system into `StoreUnavailable`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = "the server's disk is full; delete models or adaptations"
            raise StoreUnavailable("STORE_FULL", message) from error
        message = f"the data folder cannot be used: {error.strerror}"
        raise StoreUnavailable("STORE_FAILED", message) from error
