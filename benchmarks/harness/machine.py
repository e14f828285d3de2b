"""Facts of the machine, and the memory of its processes."""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from metanas.util.provenance import cores, processor

ROOT = Path(__file__).resolve().parents[2]


def facts() -> dict[str, Any]:
    """Return the machine, its present load, and the versions of the libraries that compute."""
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "revision": _revision(),
        "allocator": allocator(),
    }


def allocator(pid: int | str = "self") -> str | None:
    """Return the memory allocator of a process, where /proc shows it."""
    try:
        libraries = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    return "tcmalloc" if "tcmalloc" in libraries else platform.libc_ver()[0] or None


def _revision() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def status(pid: int | str = "self") -> Mapping[str, int]:
    """Return the sizes in /proc/PID/status, in bytes: VmRSS, VmHWM and others."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    parts = [line.split() for line in lines if line.endswith(" kB")]
    return {part[0].removesuffix(":"): int(part[1]) * 1024 for part in parts}


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    pids = [pid]
    for parent in pids:
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # the thread has ended
                pids += map(int, thread.read_text(encoding="ascii").split())
    return pids


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that processes have used so far; an ended one counts as 0."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
            ticks += sum(map(int, fields.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return status()["VmHWM"]
