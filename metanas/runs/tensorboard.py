"""A run's log as the events that TensorBoard reads. Needs the extra "watch".

They are made from the log and not while training, so that watching can neither slow a run nor stop
it, and a run that was killed, resumed or is long over looks the same as one that is watched live.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from metanas.errors import CheckpointError
from metanas.runs.log import Record, number

TAGS = {
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "seconds": "train/seconds_per_iteration",
    "soft": "validation/soft",
    "pruned": "validation/pruned",
    "entropy": "search/entropy",
    "temperature": "search/temperature",
    "candidates": "search/candidates",
    "meta_lr_weights": "meta_lr/weights",
    "meta_lr_alphas": "meta_lr/alphas",
}
"""Key of the log -> name of the curve; other numbers of a log are under other/."""
NOT_A_CURVE = ("time", "iteration")
NAME = "metanas"
"""Ending of our files; others in the folder are left alone."""


class Events:
    """A folder of events that says what a log says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points = 0
        """How many have been written."""
        self._written: tuple[Record, ...] = ()
        self._file: RecordWriter | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Bring the events up to date with the log.

        What is new is appended; if the log has changed otherwise, as it does when a run is resumed
        from before its last line, a new file takes the place of the old one.

        Raises:
            CheckpointError: the folder cannot be written to (WRITE_FAILED).
        """
        known = len(self._written)
        try:
            if self._file is None or self._written != tuple(records[:known]):
                known = 0
                self._begin()
            self._append(records[known:])
        except OSError as error:
            message = f"{self.folder} cannot be written to ({error}); choose another with --out"
            raise CheckpointError("WRITE_FAILED", message) from error
        self._written = tuple(records)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self.close()
        self.points = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        before = list(self.folder.glob(f"events.out.tfevents.*.{NAME}"))
        # readers take the files in the order of their names
        path = self.folder.resolve() / f"events.out.tfevents.{time.time_ns()}.{NAME}"
        self._file = RecordWriter(str(path))
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # a reader that has seen the file of before forgets it
        self._put(Event(wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))
        for old in before:
            old.unlink(missing_ok=True)

    def _append(self, records: Sequence[Record]) -> None:
        for record in records:
            values = [
                Summary.Value(tag=TAGS.get(key, f"other/{key}"), simple_value=value)
                for key, raw in record.items()
                if key not in NOT_A_CURVE and (value := number(raw)) is not None
            ]
            when = number(record.get("time")) or 0.0
            self.points += len(values)
            summary = Summary(value=values)
            self._put(Event(wall_time=when, step=record["iteration"], summary=summary))
        if self._file is not None:
            self._file.flush()

    def _put(self, event: Event) -> None:
        if self._file is not None:
            self._file.write(event.SerializeToString())
