"""A run as its folder tells it, while it goes on, after it ended, or after it was killed.

Notable:
- Only complete lines of the log count: a line that a crash or a full disk has cut off is dropped.
- Nothing but the iteration of a line is required: logs of older releases say less than today's.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from metanas.errors import CheckpointError

LOG_FILE = "log.jsonl"
SNAPSHOT_FILE = "snapshot.safetensors"
CONFIG_FILE = "training.json"
"""The resolved configuration, beside the weights of a checkpoint."""
CHECKPOINT = "checkpoint"
"""Folder, inside that of the run, of its best checkpoint."""
LONGEST_HEADER = 100_000_000
"""Bytes; what safetensors itself allows."""

Record = Mapping[str, Any]
"""A line of the log."""
Curve = list[tuple[int, float]]
"""Iterations and what was measured at them, in order."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of a run; a part that its folder lacks is empty."""

    folder: Path
    records: tuple[Record, ...]
    """In the order of their iterations, one of each."""
    dropped: int = 0
    """Lines of the log that could not be read."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration, by section."""
    snapshot: int | None = None
    """Iteration at which the run would go on; None without a readable snapshot."""

    @property
    def iteration(self) -> int:
        """The last meta-iteration that anything is known of."""
        logged = self.records[-1]["iteration"] if self.records else 0
        return max(int(logged), self.snapshot or 0)

    @property
    def iterations(self) -> int | None:
        """The number of iterations to do; None if the configuration is not known."""
        train = self.config.get("train")
        planned = train.get("iterations") if isinstance(train, Mapping) else None
        return planned if isinstance(planned, int) else None

    @property
    def finished(self) -> bool:
        """Return True if all iterations that were asked for are done."""
        return self.iterations is not None and self.iteration >= self.iterations

    def curve(self, key: str) -> Curve:
        """Return the finite numbers that the log has of `key`."""
        found = ((int(r["iteration"]), number(r.get(key))) for r in self.records)
        return [(iteration, value) for iteration, value in found if value is not None]


def number(value: object) -> float | None:
    """`value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def reached(folder: Path) -> int:
    """The iteration of the snapshot in a run's folder; 0 without a readable one."""
    iteration = _header(folder / SNAPSHOT_FILE).get("iteration")
    return iteration if isinstance(iteration, int) else 0


def read_run(folder: Path) -> RunRecord:
    """Read what there is of the run in `folder`; files are only read.

    Raises:
        CheckpointError: there is no such folder, or neither a log nor a snapshot in it
            (RUN_MISSING); or its log cannot be opened (RUN_UNREADABLE).
    """
    if not folder.is_dir():
        message = f"{folder} is no folder; a run is the folder that train was given as --out"
        raise CheckpointError("RUN_MISSING", message)
    log, snapshot = folder / LOG_FILE, folder / SNAPSHOT_FILE
    if not log.exists() and not snapshot.exists():
        message = f"{folder} holds no run: neither {LOG_FILE} nor {SNAPSHOT_FILE} is in it"
        raise CheckpointError("RUN_MISSING", message)
    records, dropped = read_log(log)
    header = _header(snapshot)
    config = header.get("config") or _json_object(folder / CHECKPOINT / CONFIG_FILE)
    iteration = header.get("iteration")
    return RunRecord(
        folder=folder,
        records=records,
        dropped=dropped,
        config=config if isinstance(config, dict) else {},
        snapshot=iteration if isinstance(iteration, int) else None,
    )


def read_log(path: Path) -> tuple[tuple[Record, ...], int]:
    """The complete lines of a log, and how many lines could not be read.

    Of several lines for one iteration the last counts. No file is an empty log.

    Raises:
        CheckpointError: there is a log that cannot be opened (RUN_UNREADABLE).
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return (), 0
    except OSError as error:
        raise CheckpointError("RUN_UNREADABLE", f"{path} cannot be read: {error}") from error
    found: dict[int, Record] = {}
    dropped = 0
    for line in raw.split(b"\n"):
        record = parse_line(line)
        if record is not None:
            found[record["iteration"]] = record
        elif line.strip():
            dropped += 1
    return tuple(found[iteration] for iteration in sorted(found)), dropped


def parse_line(line: bytes) -> Record | None:
    """A line of a log; None if it is none, or only a part of one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    iteration = record.get("iteration") if isinstance(record, dict) else None
    return record if type(iteration) is int and iteration >= 0 else None


def _header(path: Path) -> Record:
    """Read the metadata of a snapshot; empty if there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                return {}
            metadata = json.loads(file.read(length))["__metadata__"]
        run = json.loads(metadata["run"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return {}
    return run if isinstance(run, dict) else {}


def _json_object(path: Path) -> Record:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def seconds_of(run: RunRecord) -> Iterator[float]:
    """Wall seconds from each line of the log to the next, pauses between two starts cut off.

    A pause is what takes more than four times as long, for an iteration, as the median does.
    """
    stamps = run.curve("time")
    pairs = [(b - a, t - s) for (a, s), (b, t) in pairwise(stamps) if t > s]
    paces = sorted(seconds / count for count, seconds in pairs)
    usual = paces[len(paces) // 2] if paces else 0.0
    for count, seconds in pairs:
        yield min(seconds, 4 * usual * count)
