"""Messages between the front and a worker process, without torch.

They are the same over a pipe and in a Ray cluster (`metanas_server.workers.link`).

The front sends `Order`, `Stop`, `Share`, `Reload` and `Adopt`. The worker process sends `Started`
first, `Loaded` when it is ready and for each `Reload`, `Step` and `Ended` for each job, and `Beat`
if it has sent nothing for a while. Errors are data.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from metanas.spec.card import CheckpointCard
from metanas.spec.examples import Limits
from metanas.spec.options import Option
from metanas.spec.progress import Progress
from metanas.spec.universal import UNIVERSAL, Universal
from metanas_server.workers.failures import Failed


class Load(Protocol):
    """Load a folder as `metanas.checkpoint.Checkpoint`; the function must be picklable."""

    def __call__(self, folder: Path, /, *, device: str) -> Any: ...


class Copy(Protocol):
    """The files of the checkpoints of the front; the object must be picklable."""

    @property
    def digest(self) -> str:
        """Their digest (`metanas_server.workers.checkpoint_files.digest_of`)."""

    def read(self) -> Mapping[str, bytes]:
        """Return their contents by path."""


@dataclass(frozen=True)
class Cards:
    """The cards of the checkpoints of a worker process, and the universal search space."""

    checkpoints: Mapping[str, CheckpointCard] = field(default_factory=dict)
    universal: Universal | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each checkpoint and of the universal search space, by name."""
        digests = {name: card.digest for name, card in self.checkpoints.items()}
        return digests if self.universal is None else {**digests, UNIVERSAL: self.universal.digest}

    def check(self) -> None:
        """Check that the universal search space was fitted for these checkpoints.

        Raises:
            CheckpointError: CHECKPOINT_MISSING, CHECKPOINT_CHANGED.
        """
        if self.universal is not None:
            self.universal.check_checkpoints(self.digests)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings of a worker process.

    device: cpu, cuda, cuda:0 ...
    threads: threads of torch until the first `Share`.
    stack_images: most support images of a step that jobs take together.
    stack_bytes: most bytes of the activations of such a step.
    beat: seconds without a message after which the process sends a `Beat`.
    start_seconds: most seconds to load the checkpoints; then the process is killed.
    log_level, log_format: as in `metanas_server.observation.logs.configure`.
    load: loads a checkpoint; None is `metanas.checkpoint.load_checkpoint`.
    copy: the files, for a process on a host that may not have them.
    """

    checkpoints: Path
    limits: Limits
    device: str
    threads: int
    stack_images: int
    stack_bytes: int
    beat: float
    start_seconds: float
    log_level: str = "info"
    log_format: str = "text"
    load: Load | None = None
    copy: Copy | None = None

    @property
    def cpus(self) -> int:
        """CPUs to reserve for the process in a cluster."""
        return self.threads if self.device == "cpu" else 1


@dataclass(frozen=True, kw_only=True)
class Order:
    """Run a job. Later messages name it by `number`.

    checkpoint: its name, or that of the universal search space.
    digest: its digest.
    support: file of the support set, named by its digest.
    data: its contents, for a process on a host that may not have it.
    """

    number: int
    checkpoint: str
    digest: str
    overrides: Mapping[str, Option]
    seed: int
    classes: tuple[str, ...] | None
    support: Path
    data: bytes | None = None


@dataclass(frozen=True)
class Stop:
    """Stop a job between two steps."""

    number: int


@dataclass(frozen=True)
class Share:
    """Compute with this number of threads from the next step on."""

    threads: int


@dataclass(frozen=True)
class Reload:
    """Load the checkpoints again, beside those in use, and answer `Loaded`.

    copy: as in `Setup`.
    """

    copy: Copy | None = None


@dataclass(frozen=True, kw_only=True)
class Started:
    """The worker process, before it loads the checkpoints."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class Loaded:
    """The cards of the checkpoints that were loaded, or the error."""

    outcome: Cards | Failed


@dataclass(frozen=True)
class Adopt:
    """Use the checkpoints of the last reload for later orders, or discard them."""

    use: bool


@dataclass(frozen=True)
class Beat:
    """The worker process is alive."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress of a job."""

    number: int
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Made:
    """The model of a job.

    checkpoint: the name of its checkpoint.
    """

    checkpoint: str
    onnx: bytes
    sha256: str
    labels: tuple[str, ...]
    genotype_json: str
    report_json: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job has ended: its model or its error."""

    number: int
    outcome: Made | Failed


ToWorker = Order | Stop | Share | Reload | Adopt
FromWorker = Started | Loaded | Beat | Step | Ended


def changed_message(name: str) -> str:
    """Return the error message for a checkpoint whose files have changed since they were loaded."""
    return (
        f"checkpoint {name!r} has changed on disk since the server loaded it; restore the old files"
        " or send SIGHUP to the server to load the new ones"
    )
