"""The journal of an evaluation: one JSON line an episode, so that an interruption loses none."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from metanas_client.errors import JournalMismatch, NotWritable

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """What a journal holds."""

    settings: dict[str, Any]
    episodes: dict[int, dict[str, Any]]
    """Episode number -> what was measured."""
    runs: list[dict[str, Any]]
    """How many episodes and seconds each run took."""
    whole_bytes: int
    """Length up to the last line that was written completely."""


class Journal:
    """Appends to a journal file; a line counts only once it is on disk with its end.

    Raises:
        JournalMismatch: SETTINGS_DIFFER, if the file was written with other settings;
            JOURNAL_FORMAT, if it is no journal.
        NotWritable: it cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        found = read(path)
        if found is not None:
            _check_settings(path, found.settings, settings)
        self.settings = dict(settings)
        self.episodes = {} if found is None else found.episodes
        self.runs = [] if found is None else found.runs
        try:
            self._file = path.open("ab")
            # what an interruption has left of a line would spoil the next one
            self._file.truncate(0 if found is None else found.whole_bytes)
        except OSError as error:
            why = error.strerror or str(error)
            raise NotWritable("NOT_WRITABLE", f"cannot write {path}: {why}") from error
        if found is None:
            self._append({"settings": settings})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add_episode(self, index: int, measured: Entry) -> None:
        """Keep the result of an episode."""
        self._append({"episode": index, **measured})
        self.episodes[index] = dict(measured)

    def add_run(self, episodes: int, seconds: float) -> None:
        """Keep how long the episodes of this run took together."""
        run = {"episodes": episodes, "seconds": seconds}
        self._append({"run": run})
        self.runs.append(run)

    def _append(self, entry: Entry) -> None:
        try:
            self._file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            why = error.strerror or str(error)
            raise NotWritable("NOT_WRITABLE", f"cannot write {self.path}: {why}") from error


def read(path: Path) -> Content | None:
    """What a journal holds; None if there is none, or nothing complete in it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or str(error)
        raise NotWritable("NOT_WRITABLE", f"cannot read {path}: {why}") from error
    whole = data.rfind(b"\n") + 1
    if not whole:
        return None
    try:
        head, *entries = [json.loads(line) for line in data[:whole].splitlines()]
        return Content(
            settings=dict(head["settings"]),
            episodes={
                entry["episode"]: {k: v for k, v in entry.items() if k != "episode"}
                for entry in entries
                if "episode" in entry
            },
            runs=[entry["run"] for entry in entries if "run" in entry],
            whole_bytes=whole,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise JournalMismatch(
            "JOURNAL_FORMAT", f"{path} is no journal of an evaluation; name another --out"
        ) from error


def _check_settings(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    # through JSON and back, as tuples come back as lists
    wanted = json.loads(json.dumps(new))
    differing = [
        f"{key}: {old.get(key)!r} there, {wanted.get(key)!r} now"
        for key in sorted(old.keys() | wanted.keys())
        if old.get(key) != wanted.get(key)
    ]
    if differing:
        raise JournalMismatch(
            "SETTINGS_DIFFER",
            f"{path} was begun with other settings ({'; '.join(differing)}). "
            "Use the same ones to resume, another --out, or --restart to begin anew.",
        )
