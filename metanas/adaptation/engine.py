"""The engine: how a device computes steps, whatever the tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metanas.adaptation.buckets import bucket, padded, unpadded
from metanas.adaptation.objective import Batch, Form, Found, evaluate
from metanas.adaptation.recording import CudaGraphs, Recordings
from metanas.errors import InvalidInput
from metanas.spec.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Engine:
    """In which precision steps are computed, and whether those that come again are recorded.

    The recordings belong to one device, and to whoever steps on it one after the other. With them
    every step is padded to its bucket (`metanas.adaptation.buckets`); without them, none is.
    """

    precision: Precision = Precision.FLOAT32
    recordings: Recordings | None = None

    def room(self, tasks: int, images: int) -> tuple[int, int]:
        """Tasks, and images of each, that a step of so many takes here."""
        return (tasks, images) if self.recordings is None else bucket(tasks, images)

    def evaluate(self, form: Form, batch: Batch) -> Found:
        """Losses and gradients of a step, which the next one may overwrite."""
        if self.recordings is None:
            return evaluate(form, batch)
        sized, numbers = padded(form, batch)

        def work(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return evaluate(sized, Batch(*inputs))

        found = Found(*self.recordings.run(sized, work, numbers))
        return unpadded(found, tasks=form.sizes[0])

    def release(self) -> bool:
        """Give back what recordings hold of the device's memory; whether there were any."""
        held = bool(self.recordings)
        if self.recordings is not None:
            self.recordings.clear()
        return held


def engine_for(device: torch.device, precision: Precision, graphs: int) -> Engine:
    """An engine for a device.

    graphs: most steps that are kept as CUDA graphs, each of which holds the memory of a step.

    Raises:
        InvalidInput: `--graphs`, OPTION_OUT_OF_RANGE, the device has no such thing.
    """
    if graphs < 0 or (graphs and device.type != "cuda"):
        message = "must be 0, or on a CUDA device how many graphs to keep"
        raise InvalidInput.single("--graphs", "OPTION_OUT_OF_RANGE", message)
    recordings = Recordings(CudaGraphs(device), graphs) if graphs else None
    return Engine(precision=precision, recordings=recordings)
