"""Count the usable CPU cores and divide them among worker processes."""

import math
import os
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MOST_WORKERS = 4


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1; a quota reduces it."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    available = min(len(os.sched_getaffinity(0)), quota(CGROUPS, Path("/proc/self/cgroup")))
    return max(1, math.ceil(available))


def quota(groups: Path, membership: Path) -> float:
    """Return the cores that control groups (v2) allow a process; infinite without a quota.

    A container's CPU limit is such a quota: it limits the time on the cores.

    groups: mount point of the hierarchy of groups.
    membership: /proc/PID/cgroup of the process.
    """
    cores = math.inf
    for path in (line[4:] for line in _read(membership).splitlines() if line.startswith("0::/")):
        # Each ancestor may have a quota. Inside a container only the root may be visible.
        for group in (groups / path, *(groups / path).parents):
            time, _, period = _read(group / "cpu.max").partition(" ")
            if time not in ("", "max"):
                cores = min(cores, int(time) / int(period))
    return cores


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def default_devices() -> tuple[str, ...]:
    """Return a CPU worker for each core, at most `MOST_WORKERS`: idle workers need memory too."""
    return ("cpu",) * min(usable_cores(), MOST_WORKERS)


def share(cores: int, busy: int) -> int:
    """Return the threads of each CPU worker while `busy` of them compute."""
    return max(1, cores // max(1, busy))
