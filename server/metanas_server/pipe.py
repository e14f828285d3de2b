"""What goes through the pipe between the front and a worker process; none of it needs torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metanas.card import CheckpointCard
from metanas.options import Option
from metanas.task import Limits

Load = Callable[[Path], Any]
"""Makes a `metanas.checkpoint.Checkpoint` of a folder; must be picklable by name."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is started with.

    threads: how many threads torch computes with; 0 leaves it to torch.
    load: how a checkpoint is loaded; None is `metanas.checkpoint.load_checkpoint`.
    """

    checkpoints: Path
    limits: Limits
    threads: int
    load: Load | None = None


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its checkpoints: by name, the card."""

    checkpoints: Mapping[str, CheckpointCard]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One adaptation to make. `number` is what a stop flag names it by; `support` is a file."""

    number: int
    checkpoint: str
    overrides: Mapping[str, Option]
    seed: int
    classes: tuple[str, ...] | None
    support: Path


@dataclass(frozen=True, kw_only=True)
class Step:
    """One sign of life; NaN where a measurement does not apply."""

    stage: str
    step: int
    steps: int
    loss: float
    accuracy: float
    temperature: float
    entropy: float


@dataclass(frozen=True, kw_only=True)
class Made:
    """The finished model."""

    onnx: bytes
    sha256: str
    labels: tuple[str, ...]
    genotype_json: str
    report_json: str
