"""Checkpoints that kill whoever adapts them, for worker processes to load."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.nn.functional import Rows
from metanas.nn.ops import OPS

DEADLY = "poison"


class Deadly(nn.Module):
    """Ends the process that evaluates it, as a defect in a kernel would."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


def load(folder: Path, *, device: str) -> Checkpoint:
    """Load a checkpoint; in the one with the deadly name an operation is deadly."""
    deadly = {**OPS, "max_pool_3x3": replace(OPS["max_pool_3x3"], build=Deadly)}
    ops = deadly if folder.name == DEADLY else OPS
    return load_checkpoint(folder, ops=ops, device=device)
