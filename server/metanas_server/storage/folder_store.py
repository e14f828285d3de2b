"""Store artefacts in a folder, as files that are written whole or not at all."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metanas_server.disk import make_folder, sync_folder
from metanas_server.storage.artefacts import (
    ARTEFACT,
    MARK,
    PROBE_BYTES,
    QUARANTINE,
    damaged,
    disk_errors,
    lost,
    sha256,
)

PARTIAL = ".partial"
UNFINISHED = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{8}\.partial")


class FolderStore:
    """A folder of content-addressed files; see `Store`.

    A file is written under another name, flushed to the disk and then renamed. After a crash or on
    a full disk the file is whole or absent.
    """

    def __init__(self, folder: Path) -> None:
        """Use this folder; create it if it is missing.

        Raises:
            StoreUnavailable: STORE_FAILED, the folder cannot be created.
        """
        self.folder = folder
        with disk_errors():
            make_folder(folder)

    @property
    def name(self) -> str:
        return str(self.folder)

    def path(self, digest: str) -> Path:
        """Return the path of the bytes with this digest."""
        return self.folder / digest

    def put(self, *parts: bytes | memoryview) -> str:
        digest = sha256(parts)
        path = self.path(digest)
        partial = self._partial(digest)
        with disk_errors():
            if _is_sound(path):
                sync_folder(self.folder)  # another server may be about to do so
                return digest
            try:
                _write(partial, parts)
                partial.replace(path)
                sync_folder(self.folder)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        return digest

    def copy(self, digest: str, source: Path) -> None:
        partial = self._partial(digest)
        with disk_errors():
            try:
                shutil.copyfile(source, partial)
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                partial.replace(self.path(digest))
                sync_folder(self.folder)
            finally:
                partial.unlink(missing_ok=True)
        self.check(digest)

    @contextmanager
    def open(self, digest: str) -> Iterator[Path]:
        self.check(digest)
        yield self.path(digest)

    def check(self, digest: str) -> None:
        with disk_errors():
            if not _is_sound(self.path(digest)):
                raise damaged(digest) if self.path(digest).exists() else lost(digest)

    def digests(self) -> set[str]:
        with disk_errors():
            return _artefacts_in(self.folder)

    def isolated(self) -> set[str]:
        folder = self.folder / QUARANTINE
        with disk_errors():
            return _artefacts_in(folder) if folder.is_dir() else set()

    def remove(self, digest: str) -> None:
        with disk_errors():
            self.path(digest).unlink(missing_ok=True)
            sync_folder(self.folder)  # else a file without a record is back after a power loss

    def isolate(self, digest: str) -> None:
        with disk_errors():
            if self.path(digest).exists():
                quarantine = self.folder / QUARANTINE
                make_folder(quarantine)
                self.path(digest).rename(quarantine / digest)
                sync_folder(quarantine)
                sync_folder(self.folder)

    def release(self, digest: str) -> None:
        isolated = self.folder / QUARANTINE / digest
        with disk_errors():
            if not self.path(digest).exists() and _is_sound(isolated):
                isolated.rename(self.path(digest))
                sync_folder(self.folder)

    def clean(self) -> None:
        with disk_errors():
            for path in list(self.folder.iterdir()):
                if UNFINISHED.fullmatch(path.name):
                    path.unlink()

    def probe(self) -> None:
        path = self._partial("0" * 64)
        with disk_errors():
            try:
                _write(path, (bytes(PROBE_BYTES),))
            finally:
                path.unlink(missing_ok=True)

    def mark(self) -> str:
        path = self.folder / MARK
        with disk_errors():
            return path.read_text(encoding="ascii", errors="replace") if path.exists() else ""

    def set_mark(self, mark: str, *, replace: bool = False) -> str:
        path, partial = self.folder / MARK, self._partial(mark)
        with disk_errors():
            if replace or not path.exists():
                try:
                    _write(partial, (mark.encode(),))
                    if replace:
                        partial.replace(path)
                    else:
                        with suppress(FileExistsError):
                            path.hardlink_to(partial)
                finally:
                    partial.unlink(missing_ok=True)
                sync_folder(self.folder)
        return self.mark()

    def _partial(self, digest: str) -> Path:
        return self.folder / f"{digest}.{secrets.token_hex(4)}{PARTIAL}"


def _artefacts_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if ARTEFACT.fullmatch(path.name)}


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _is_sound(path: Path) -> bool:
    """Return True if a file exists, and its digest is its name."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == path.name
    except FileNotFoundError:
        return False
