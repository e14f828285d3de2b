"""What is measured on: facts of the machine, its rates, and the memory of processes."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch

from benchmarks._measure import seconds
from metanas.util.provenance import cores, processor

ROOT = Path(__file__).resolve().parents[1]
SIDE = 2048
"""Of the square matrices whose product is timed."""
COPIED = 64 * 2**20
"""Bytes that are copied; more than the caches hold."""


def facts() -> dict[str, Any]:
    """The machine, its load now, and the versions of what computes."""
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
    """What the large tensors of a process on a CPU come from, where that can be seen."""
    try:
        loaded = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    return "tcmalloc" if "tcmalloc" in loaded else platform.libc_ver()[0] or None


def _revision() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def rates(repeats: int = 7) -> dict[str, float]:
    """What the current threads of torch reach: a product of matrices, a copy of memory.

    FLOP a second in float32, and bytes read and written a second; medians.
    """
    left, right = torch.rand(2, SIDE, SIDE)
    product, source = torch.empty_like(left), torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    flops = _typical(lambda: torch.mm(left, right, out=product), repeats)
    copy = _typical(lambda: target.copy_(source), repeats)
    return {"flops": 2 * SIDE**3 / flops, "bytes": 2 * COPIED / copy}


def _typical(work: Any, repeats: int) -> float:
    work()
    return median(seconds(work) for _ in range(repeats))


def status(pid: int | str = "self") -> Mapping[str, int]:
    """The lines of /proc/PID/status that are sizes, in bytes: VmRSS, VmHWM and others."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    parts = [line.split() for line in lines if line.endswith(" kB")]
    return {part[0].removesuffix(":"): int(part[1]) * 1024 for part in parts}


def peak() -> int:
    """The most bytes that this process has ever had resident.

    On Linux from /proc: there `getrusage` starts with the size of the process that started this
    one, which in a benchmark is often the larger.
    """
    if sys.platform == "linux":
        return status()["VmHWM"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
