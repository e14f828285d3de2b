"""Messages of the pipe between the front and a worker process; none of them needs torch.

The front sends `Order`, `Stop`, `Share`, `Reload` and `Adopt`. The worker process sends `Ready`
once, or the `Failed` that keeps it from starting. Then it sends `Step` and `Ended` for each of its
jobs, `Beat` while it has none, and one `Reloaded` for each `Reload`. Errors are data, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from metanas.spec.card import CheckpointCard
from metanas.spec.examples import Limits
from metanas.spec.options import Option
from metanas.spec.report import Progress
from metanas_server.workers.failures import Failed


class Load(Protocol):
    """Makes a `metanas.checkpoint.Checkpoint` of a folder; must be picklable by name."""

    def __call__(self, folder: Path, /, *, device: str) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings that a worker process is started with.

    device: where it computes: cpu, cuda, cuda:0 ...
    threads: how many threads torch computes with, until a `Share` says otherwise.
    stack_images: most support images of a step that several jobs take together.
    stack_bytes: most bytes of activations of the same.
    beat: seconds between two signs of life of a worker that has nothing to do.
    start_seconds: most seconds to load the checkpoints; then the process is killed.
    load: how a checkpoint is loaded; None is `metanas.checkpoint.load_checkpoint`.
    """

    checkpoints: Path
    limits: Limits
    device: str
    threads: int
    stack_images: int
    stack_bytes: int
    beat: float
    start_seconds: float
    load: Load | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job: an adaptation to make. `number` is its name from now on; `support` is a file.

    digest: of the checkpoint that the job is to start from.
    """

    number: int
    checkpoint: str
    digest: str
    overrides: Mapping[str, Option]
    seed: int
    classes: tuple[str, ...] | None
    support: Path


@dataclass(frozen=True)
class Stop:
    """The job with this number is to stop between two steps."""

    number: int


@dataclass(frozen=True)
class Share:
    """The worker's share of the cores has changed: torch is to compute with so many threads."""

    threads: int


@dataclass(frozen=True)
class Ready:
    """The worker process has loaded its checkpoints: by name, the card."""

    checkpoints: Mapping[str, CheckpointCard]


@dataclass(frozen=True)
class Reload:
    """Load the checkpoints again, beside those in use, and answer `Reloaded`."""


@dataclass(frozen=True)
class Reloaded:
    """The cards of the checkpoints that were loaded again, or the error in their place."""

    outcome: Mapping[str, CheckpointCard] | Failed


@dataclass(frozen=True)
class Adopt:
    """Use the checkpoints that were loaded again for the orders to come, or forget them."""

    use: bool


@dataclass(frozen=True)
class Beat:
    """A worker is alive that has nothing else to tell."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress of a job."""

    number: int
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Made:
    """The finished model."""

    onnx: bytes
    sha256: str
    labels: tuple[str, ...]
    genotype_json: str
    report_json: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job is over: its model, or the error in its place."""

    number: int
    outcome: Made | Failed


def changed(name: str) -> str:
    """Say that a checkpoint on disk is not the one that the server started with."""
    return (
        f"checkpoint {name!r} has changed on disk since the server loaded it; put the old files "
        "back, or have the server load the checkpoints again (SIGHUP)"
    )
