"""The folder of a run: names of its files, its log, and the header of its snapshot.

Notes:
- Only complete lines of a log count. A line that a crash or a full disk has cut off is dropped.
- A line needs its iteration and nothing else; the logs of older releases have fewer keys.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from metanas.errors import CheckpointError
from metanas_data.files import write_atomic

LOG_FILE = "log.jsonl"
SNAPSHOT_FILE = "snapshot.safetensors"
CONFIG_FILE = "training.json"
"""The resolved configuration, beside the weights of a checkpoint."""
CHECKPOINT = "checkpoint"
"""Folder, inside that of the run, of its best checkpoint."""

Record = Mapping[str, Any]
"""A line of the log."""


@dataclass(frozen=True)
class RunRecord:
    """The record of a run, during the run or after its end."""

    records: tuple[Record, ...]
    """The lines of the log in the order of their iterations, one for each iteration."""
    finished: bool
    """True after the last iteration of the configuration; False without a readable snapshot."""


def read_run(folder: Path) -> RunRecord:
    """Read the record of the run in `folder`.

    Raises:
        CheckpointError: the folder has neither a log nor a snapshot (RUN_MISSING), or the log
            cannot be opened (RUN_UNREADABLE).
    """
    if not any((folder / name).exists() for name in (LOG_FILE, SNAPSHOT_FILE)):
        message = f"{folder} holds no run: it has neither {LOG_FILE} nor {SNAPSHOT_FILE}"
        raise CheckpointError("RUN_MISSING", f"{message}; name the --out of a training")
    try:
        records = read_log(folder)
    except OSError as error:
        raise CheckpointError("RUN_UNREADABLE", f"{folder} cannot be read: {error}") from error
    header = snapshot_header(folder)
    if not header:
        return RunRecord(records, finished=False)
    done = max(header["iteration"], records[-1]["iteration"] if records else 0)
    return RunRecord(records, finished=done >= header["config"]["train"]["iterations"])


def read_log(folder: Path) -> tuple[Record, ...]:
    """Read the complete lines of the log of a run; a missing log is empty.

    If an iteration has several lines, the last one counts.
    """
    try:
        lines = (folder / LOG_FILE).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return ()
    records = [record for line in lines if (record := _parse(line)) is not None]
    latest = {record["iteration"]: record for record in records}
    return tuple(latest[iteration] for iteration in sorted(latest))


def _parse(line: bytes) -> Record | None:
    """Parse a line of a log; None if it is damaged or cut off."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    iteration = record.get("iteration") if isinstance(record, dict) else None
    whole = line.endswith(b"\n") and type(iteration) is int and iteration >= 0
    return record if whole else None


def append_log(folder: Path, values: Mapping[str, Any]) -> None:
    """Append a line with the time and these values; NaN is stored as null."""
    stored = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
    with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **stored}) + "\n")


def rewind_log(folder: Path, iteration: int) -> None:
    """Drop the lines of later iterations, and damaged ones."""
    if (folder / LOG_FILE).exists():
        lines = [json.dumps(r) + "\n" for r in read_log(folder) if r["iteration"] <= iteration]
        write_atomic(folder / LOG_FILE, "".join(lines).encode())


def snapshot_header(folder: Path) -> Record:
    """Read the header of the snapshot of a run; empty without a readable snapshot."""
    try:
        with safe_open(folder / SNAPSHOT_FILE, framework="numpy") as file:
            header = json.loads(file.metadata()["run"])
        kinds = {type(header["iteration"]), type(header["config"]["train"]["iterations"])}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return {}
    return header if kinds == {int} else {}


def number(value: object) -> float | None:
    """Return `value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def training_seconds(records: Sequence[Record]) -> float:
    """Add up the wall seconds between the lines of a log, without the pauses between two starts.

    A pause is an interval that takes, for each iteration, more than four times the median.
    """
    stamps = [(r["iteration"], at) for r in records if (at := number(r.get("time"))) is not None]
    pairs = [(b - a, t - s) for (a, s), (b, t) in pairwise(stamps) if t > s]
    paces = sorted(seconds / count for count, seconds in pairs)
    usual = paces[len(paces) // 2] if paces else 0.0
    return math.fsum(min(seconds, 4 * usual * count) for count, seconds in pairs)
