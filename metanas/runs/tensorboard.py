"""Events of TensorBoard, made from the log of a run. Needs the extra "watch".

The run itself writes no events. So watching cannot slow or stop a run. The events are the same for
a run that is watched live, was resumed, or ended long ago.
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
"""Key of the log -> name of the curve; the other numbers of a log are under other/."""
NO_CURVE = ("time", "iteration")
ENDING = "metanas"
"""Ending of our files; other files in the folder stay."""


class Events:
    """A folder of events that follows a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points = 0
        """Number of points in the folder."""
        self._records: tuple[Record, ...] = ()
        self._file: RecordWriter | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Bring the events up to date with the log.

        New records are appended. If older records have changed, as after a resume from before the
        last line, a new file replaces the old one.

        Raises:
            CheckpointError: the folder cannot be written to (WRITE_FAILED).
        """
        known = len(self._records)
        try:
            if self._file is None or self._records != tuple(records[:known]):
                known = self.points = 0
                self._file = self._replace_file()
            for record in records[known:]:
                self._file.write(self._event(record).SerializeToString())
            self._file.flush()
        except OSError as error:
            message = f"{self.folder} cannot be written to ({error}); choose another with --out"
            raise CheckpointError("WRITE_FAILED", message) from error
        self._records = tuple(records)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _replace_file(self) -> RecordWriter:
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        old = list(self.folder.glob(f"events.out.tfevents.*.{ENDING}"))
        # readers take the files in the order of their names
        path = self.folder.resolve() / f"events.out.tfevents.{time.time_ns()}.{ENDING}"
        file = RecordWriter(str(path))
        # START lets a reader forget the older file
        for fields in (
            {"file_version": "brain.Event:2"},
            {"session_log": SessionLog(status=SessionLog.START)},
        ):
            file.write(Event(wall_time=time.time(), **fields).SerializeToString())
        for each in old:
            each.unlink(missing_ok=True)
        return file

    def _event(self, record: Record) -> Event:
        values = [
            Summary.Value(tag=TAGS.get(key, f"other/{key}"), simple_value=value)
            for key, raw in record.items()
            if key not in NO_CURVE and (value := number(raw)) is not None
        ]
        self.points += len(values)
        at = number(record.get("time")) or 0.0
        return Event(wall_time=at, step=record["iteration"], summary=Summary(value=values))
