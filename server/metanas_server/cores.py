"""The cores that a server computes with: how many there are, and what share a worker has."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MOST_WORKERS = 4


def usable_cores() -> int:
    """Cores that this process may use, at least 1: fewer than it may run on if it has a quota."""
    available = min(len(os.sched_getaffinity(0)), quota(CGROUPS, Path("/proc/self/cgroup")))
    return max(1, math.ceil(available))


def quota(groups: Path, own: Path) -> float:
    """Return the cores that control groups (v2) leave a process; infinite without one.

    A container's CPU limit is such a quota: it takes no cores away, but the time on them.

    groups: where the hierarchy of groups is mounted.
    own: the process's /proc/PID/cgroup.
    """
    found = math.inf
    for path in (line[4:] for line in _read(own).splitlines() if line.startswith("0::/")):
        # each group on the way up may have one; within a container only the root may be there
        for group in (groups / path, *(groups / path).parents):
            time, _, period = _read(group / "cpu.max").partition(" ")
            if time not in ("", "max"):
                found = min(found, int(time) / int(period))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def default_devices() -> tuple[str, ...]:
    """A worker of the CPU for each core, up to a number: each takes memory while it is idle too."""
    return ("cpu",) * min(usable_cores(), MOST_WORKERS)


def share(cores: int, busy: int) -> int:
    """Threads of each worker of the CPU while so many of them are busy."""
    return max(1, cores // max(1, busy))
