"""Checkpoints that crash the worker process that adapts them."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.nn.functional import Rows
from metanas.nn.ops import OPS

CRASHING = "crashing"


class Crash(nn.Module):
    """Ends the process that evaluates it, as a defect in a kernel would."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


def load(folder: Path, *, device: str) -> Checkpoint:
    """Load a checkpoint; in the one named `CRASHING` an operation ends the process."""
    ops = {**OPS, "max_pool_3x3": replace(OPS["max_pool_3x3"], build=Crash)}
    return load_checkpoint(folder, ops=ops if folder.name == CRASHING else OPS, device=device)
