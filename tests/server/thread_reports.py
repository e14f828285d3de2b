"""Checkpoints whose networks report the number of torch's threads, for worker processes to load."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.nn.ops import OPS, Chain
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_server.workers.protocol import Load

LABELS = ("a", "b", "c", "d", "e")
"""With two images of each class, a step is large and uses all threads."""


class ReportingReLU(nn.ReLU):
    """A ReLU that writes the number of torch's threads to a file named by the process id."""

    def __init__(self, reports: Path) -> None:
        super().__init__()
        self.reports = reports

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        new = self.reports / f"{os.getpid()}.new"
        new.write_text(str(torch.get_num_threads()), encoding="ascii")
        new.replace(new.with_suffix(""))
        return super().forward(input)


class ThreadReports:
    """A folder with such a checkpoint and the reports of the processes that adapt it."""

    def __init__(self, folder: Path) -> None:
        self.checkpoints, self.reports = folder / "checkpoints", folder / "reports"
        options = AdaptConfig(steps=2, tuning_steps=1, patience=0)
        make_checkpoint(self.checkpoints / "grey", size=64, options=options)
        self.reports.mkdir()

    @property
    def load(self) -> Load:
        """The function that loads the checkpoint in a worker process."""
        return partial(load, self.reports)

    def clear(self) -> None:
        """Delete all reports."""
        for pid in self.threads():
            (self.reports / str(pid)).unlink()

    def threads(self) -> dict[int, int]:
        """Return the last reported number of threads by process id."""
        paths = [path for path in self.reports.iterdir() if not path.suffix]
        return {int(path.name): int(path.read_text(encoding="ascii")) for path in paths}


def load(reports: Path, folder: Path, *, device: str) -> Checkpoint:
    """Load a checkpoint in which one operation reports."""
    op = replace(OPS["max_pool_3x3"], build=partial(build, reports))
    return load_checkpoint(folder, ops={**OPS, "max_pool_3x3": op}, device=device)


def build(reports: Path, channels: int, stride: int) -> nn.Module:
    pool = OPS["max_pool_3x3"].build(channels, stride)
    assert isinstance(pool, Chain)
    first, *rest = pool
    return Chain([first, ReportingReLU(reports), *rest])
