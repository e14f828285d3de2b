"""The journal of an evaluation: one line of JSON for each episode, which survives interruptions.

The first line holds the settings. A line counts once it is on disk with its line end. A journal has
one writer at a time. The writer holds a lock, which the system releases when the process ends.

This module needs neither NumPy nor Pillow.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from metanas_data.errors import EvaluationError

Record: TypeAlias = Mapping[str, Any]
"""Figures of one episode as plain data; `episode` is its number."""

BEGIN = b'{"settings": '


def journal_path(out: Path) -> Path:
    """Return the path of the journal beside the result file of an evaluation."""
    return out.with_name(out.name + ".journal.jsonl")


class Journal:
    """The finished episodes of an evaluation with these settings, read from disk and appended to.

    restart: discard the content of the file first, whatever it is.

    Raises:
        EvaluationError: EVALUATION_BUSY, another process writes it; EVALUATION_SETTINGS, it has
            other settings; EVALUATION_FORMAT, it is no journal; EVALUATION_UNWRITABLE.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.settings: Mapping[str, Any] = json.loads(json.dumps(settings))
        self.episodes: dict[int, Record] = {}
        """Number of an episode -> its record."""
        self.runs: list[Record] = []
        """The number of episodes of each run of the evaluation, and the seconds that it took."""
        try:
            # without a buffer, closing the file does not repeat a write that failed
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            self._lock()
            if restart:
                self._file.truncate(0)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def missing(self, count: int) -> list[int]:
        """Return the numbers below `count` of the episodes that are not in the journal."""
        return [index for index in range(count) if index not in self.episodes]

    def add(self, record: Record) -> None:
        """Append the record of an episode.

        Raises:
            EvaluationError: EVALUATION_UNWRITABLE; the earlier lines stay.
        """
        self._append(record)
        self._take(record)

    def add_run(self, episodes: int, seconds: float) -> None:
        """Append the duration of a run that added `episodes` episodes.

        Raises:
            EvaluationError: EVALUATION_UNWRITABLE; the earlier lines stay.
        """
        entry = {"run": {"episodes": episodes, "seconds": seconds}}
        self._append(entry)
        self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "run" in entry:
            self.runs.append(entry["run"])
        else:
            self.episodes[int(entry["episode"])] = entry

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another evaluation is writing {self.path}; wait for its end, or name "
            raise EvaluationError("EVALUATION_BUSY", f"{message}another --out") from None
        except OSError as error:
            message = f"{self.path} cannot be locked ({error}); name an --out on another disk"
            raise EvaluationError("EVALUATION_UNWRITABLE", message) from error

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        *lines, unfinished = data.split(b"\n")
        try:
            entries = [json.loads(line) for line in lines]
            settings = dict(entries[0]["settings"]) if entries else None
            for entry in entries[1:]:
                self._take(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise self._other_file() from error
        if settings is not None:
            self._check(settings)
        elif not BEGIN.startswith(unfinished[: len(BEGIN)]):
            raise self._other_file()
        if unfinished:
            self._file.truncate(len(data) - len(unfinished))
        if settings is None:
            self._append({"settings": self.settings})

    def _other_file(self) -> EvaluationError:
        message = f"{self.path} is no journal of an evaluation; delete it, or name another --out"
        return EvaluationError("EVALUATION_FORMAT", message)

    def _check(self, stored: Mapping[str, Any]) -> None:
        differing = [
            f"{key}: {stored.get(key)!r} there, {self.settings.get(key)!r} now"
            for key in sorted(stored.keys() | self.settings.keys())
            if stored.get(key) != self.settings.get(key)
        ]
        if differing:
            message = (
                f"{self.path} was begun with other settings ({'; '.join(differing)}). "
                "Use the same settings to resume, delete it to begin again, or name another --out."
            )
            raise EvaluationError("EVALUATION_SETTINGS", message)

    def _append(self, entry: Mapping[str, Any]) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = json.dumps(entry).encode() + b"\n"
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # a part of this line would spoil the next one
                self._file.truncate(size)
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> EvaluationError:
    message = f"cannot write {path}: {error.strerror or error}. Make room, or name another --out."
    return EvaluationError("EVALUATION_UNWRITABLE", message)
