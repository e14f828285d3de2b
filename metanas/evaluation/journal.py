"""The journal of an evaluation: one JSON line an episode, so that an interruption loses none.

Notable:
- A line counts only once it is on disk with its end; what an interruption left of one is cut off.
- Whoever writes a journal holds a lock on it. It goes with the process, however that ends.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from metanas.errors import EvaluationError

ENDING = ".journal.jsonl"

Record = Mapping[str, Any]
"""What was measured of an episode, plain data; `episode` is its number."""


class Journal:
    """The episodes that were measured so far with these settings, and more as they come.

    Raises:
        EvaluationError: EVALUATION_BUSY, another process is writing it; EVALUATION_SETTINGS, it
            was begun with other settings; EVALUATION_FORMAT, it is no journal;
            EVALUATION_UNWRITABLE.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.records: list[Record] = []
        """Those of episodes 0, 1, 2 ..."""
        self._settings = json.loads(json.dumps(settings))
        try:
            # unbuffered: what could not be written must not be tried once more at the end
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            self._lock()
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

    def add(self, records: Iterable[Record]) -> None:
        """Keep what was measured of the next episodes.

        Raises:
            EvaluationError: EVALUATION_UNWRITABLE; what was kept before stays.
        """
        for record in records:
            self._append(record)
            self.records.append(record)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another evaluation is writing {self.path}; name another --out"
            raise EvaluationError("EVALUATION_BUSY", message) from None
        except OSError as error:
            message = f"{self.path} cannot be locked ({error}); name an --out on another disk"
            raise EvaluationError("EVALUATION_UNWRITABLE", message) from error

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        try:
            head, *self.records = [json.loads(line) for line in data[:whole].splitlines()] or [None]
            numbers = [record["episode"] for record in self.records]
            settings = None if head is None else dict(head["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._rubbish() from error
        if numbers != list(range(len(numbers))):
            raise self._rubbish()
        if settings is None:
            if data and not b'{"settings": '.startswith(data[:13]):
                raise self._rubbish()
            self._file.truncate(0)
            self._append({"settings": self._settings})
        else:
            self._check(settings)
            if whole < len(data):
                self._file.truncate(whole)

    def _check(self, found: Mapping[str, Any]) -> None:
        differing = [
            f"{key}: {found.get(key)!r} there, {self._settings.get(key)!r} now"
            for key in sorted(found.keys() | self._settings.keys())
            if found.get(key) != self._settings.get(key)
        ]
        if differing:
            message = (
                f"{self.path} was begun with other settings ({'; '.join(differing)}); use the same "
                "ones to go on, write elsewhere, or delete it to begin anew"
            )
            raise EvaluationError("EVALUATION_SETTINGS", message)

    def _rubbish(self) -> EvaluationError:
        message = f"{self.path} is no journal of an evaluation; name another --out, or delete it"
        return EvaluationError("EVALUATION_FORMAT", message)

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            rest = json.dumps(entry).encode() + b"\n"
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> EvaluationError:
    message = f"cannot write {path}: {error.strerror or error}; what is there stays"
    return EvaluationError("EVALUATION_UNWRITABLE", message)
