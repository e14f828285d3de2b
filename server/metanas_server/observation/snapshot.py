"""Present figures of a server: a snapshot of its jobs and workers, its files and its memory."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

STORE_SECONDS = 60.0
"""Age at which the sizes of the files are read again."""


@dataclass(frozen=True, kw_only=True)
class WorkerFigures:
    """One worker process; `pid` is None while it has no process."""

    device: str
    pid: int | None
    ready: bool
    adaptations: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Jobs and workers at one moment.

    adaptations: number of unfinished adaptations by state.
    oldest_wait: seconds since the acceptance of the first adaptation in the queue; 0 without one.
    restarts: worker processes that were replaced since the start.
    """

    adaptations: Mapping[str, int] = field(default_factory=dict)
    oldest_wait: float = 0.0
    workers: tuple[WorkerFigures, ...] = ()
    restarts: int = 0


class Figures(Collector):
    """Yield the present figures for each scrape.

    The event loop writes `snapshot` and `due`. A scrape reads them in another thread, so it is
    answered while the loop is blocked.

    due: time by `time.monotonic` at which the loop's next snapshot is due.
    """

    def __init__(self, data: Path, artefacts: Path | None) -> None:
        """Read the sizes of the files in these folders; None leaves out the artefacts."""
        self.snapshot = Snapshot()
        self.due = float("inf")
        self._files = _Files(data, artefacts)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        now = self.snapshot
        stall = max(0.0, time.monotonic() - self.due)
        yield _gauge("event_loop_stall_seconds", "Time that the event loop is blocked now.", stall)
        adaptations = _labelled("adaptations", "Unfinished adaptations, by state.", "state")
        for state, count in now.adaptations.items():
            adaptations.add_metric((state,), count)
        yield adaptations
        text = "Time since the acceptance of the oldest adaptation in the queue."
        yield _gauge("queue_oldest_seconds", text, now.oldest_wait)
        yield from _workers(now)
        yield from self._files.collect()


class _Files:
    """Sizes of the stored files; the last ones are kept for `STORE_SECONDS`."""

    def __init__(self, data: Path, artefacts: Path | None) -> None:
        self._data = data
        self._folders = {"records": data}
        if artefacts is not None:
            self._folders |= {"artefacts": artefacts, "quarantine": artefacts / "quarantine"}
        self._lock = Lock()
        self._read_at = float("-inf")
        self._sizes: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at > STORE_SECONDS:
                self._sizes = {kind: _bytes_in(path) for kind, path in self._folders.items()}
                self._read_at = time.monotonic()
        store = _labelled("store_bytes", "Size of the files in the data folder, by kind.", "kind")
        for kind, size in self._sizes.items():
            store.add_metric((kind,), size)
        yield store
        free = shutil.disk_usage(self._data).free
        yield _gauge("disk_free_bytes", "Free space of the disk with the data folder.", free)


def memory(pid: int) -> int:
    """Return the resident bytes of a process; 0 if it has ended or the system has no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _workers(now: Snapshot) -> Iterator[Metric]:
    labels = ("worker", "device")
    ready = _labelled("worker_ready", "1 if the worker can run adaptations.", *labels)
    stack = _labelled("worker_adaptations", "Adaptations on the worker.", *labels)
    resident = _labelled("worker_memory_bytes", "Resident memory of the worker.", *labels)
    for index, worker in enumerate(now.workers):
        values = (str(index), worker.device)
        ready.add_metric(values, worker.ready)
        stack.add_metric(values, worker.adaptations)
        resident.add_metric(values, 0 if worker.pid is None else memory(worker.pid))
    yield from (ready, stack, resident)
    text = "Worker processes that were replaced."
    yield CounterMetricFamily("metanas_worker_restarts", text, value=now.restarts)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"metanas_{name}", text, value=value)


def _labelled(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"metanas_{name}", text, labels=labels)


def _bytes_in(folder: Path) -> int:
    """Return the bytes of the files directly in a folder; a file may vanish meanwhile."""
    size = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                size += _size(entry)
    except OSError:
        return size
    return size


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size if entry.is_file(follow_symlinks=False) else 0
    except OSError:
        return 0
