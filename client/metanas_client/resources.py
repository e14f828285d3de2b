"""Adaptations, models and checkpoints of a server as plain frozen values."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum

from metanas_client.errors import Fault
from metanas_data.report import Report

Option = int | float | bool | str
"""The value of one hyper-parameter."""


class State(Enum):
    """State of an adaptation."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True if the state can no longer change."""
        return self in {State.SUCCEEDED, State.FAILED, State.CANCELLED}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress event of a running adaptation. Missing measurements are None."""

    sequence: int
    """1, 2, 3 and so on, without a gap, over all attempts."""
    stage: str
    """"decode", "adapt", "prune", "tune", "export", "check"; more may be added."""
    step: int
    """Steps of this stage that are done."""
    steps: int
    """Steps of this stage in all."""
    loss: float | None = None
    """Cross-entropy on the support images of the step, in nats."""
    accuracy: float | None = None
    """Share of the support images of the step that are classified correctly."""
    temperature: float | None = None
    """Temperature of the relaxation."""
    entropy: float | None = None
    """Mean entropy of the architecture distribution, in nats."""
    branch: str = ""
    """Branch of the universal search space that a stage begins for; empty for one checkpoint."""
    architecture: Mapping[str, float] = field(default_factory=dict)
    """Share of each branch of the model, once they are chosen; empty for one checkpoint."""
    genotype_json: str = ""
    """Genotype of the pruned network, at the start of "tune"."""
    attempt: int = 1
    """Number of the attempt; above 1 if a worker process died and another one began again."""


@dataclass(frozen=True, kw_only=True)
class AdaptationInfo:
    """The record of an adaptation on the server."""

    name: str
    state: State
    checkpoint: str
    seed: int
    request_id: str
    labels: tuple[str, ...]
    """The classes in the order of the model's outputs."""
    examples: int
    options: Mapping[str, Option]
    """The hyper-parameters of the request; the others are those of the checkpoint."""
    create_time: datetime | None
    model: str | None
    """Name of the model, once it has succeeded."""
    fault: Fault | None
    """The reason of a failure or a cancellation."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model on the server, without its bytes."""

    name: str
    adaptation: str
    checkpoint: str
    sha256: str
    size: int
    """Bytes of the ONNX file."""
    labels: tuple[str, ...]
    """The classes in the order of the outputs."""
    genotype_json: str
    report: Report | None
    """Estimates of the quality, and measurements of the adaptation; None for a file."""
    create_time: datetime | None
    owner: str = ""
    """The caller that shares the model; empty for a model of your own."""
    pinned: bool = False
    """True if the server keeps the model when it deletes unused ones; for its owner."""
    shared_with: tuple[str, ...] = ()
    """The callers that may read the model, "*" for all; for its owner."""

    @property
    def genotype(self) -> dict[str, list[list[list[object]]]]:
        """Cells by kind: for each node, its two [input index, operation] pairs."""
        genotype: dict[str, list[list[list[object]]]] = json.loads(self.genotype_json)
        return genotype


LARGEST_INT8_OPSET = 20
"""Largest opset of a file in 8 bits."""
LARGEST_SIDE = 2048
"""Largest height and width of a fixed input."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Form into which the server converts the file of a model. Defaults keep the model's form."""

    precision: str = ""
    """"fp16" stores the weights in half precision, in about half of the bytes."""
    height: int = 0
    """Height of the images of a graph without dynamic shapes, for one image at a time; 0 takes
    images of any size."""
    width: int = 0
    """Width of these images; goes with `height`."""
    opset: int = 0
    """Version of the standard operators of ONNX, 13 to 21; 0 stands for 17."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Form of the images at the network's input."""

    channels: int
    """1 for grey, 3 for RGB."""
    size: int
    """Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest support set that the server accepts."""

    max_ways: int
    max_shots: int
    max_examples: int
    max_image_bytes: int
    max_total_bytes: int
    max_pixels: int
    max_total_pixels: int
    min_side: int
    max_label_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A meta-trained network that adaptations start from."""

    name: str
    description: str
    digest: str
    """SHA-256 of its weights and its description."""
    input: InputSpec
    ops: tuple[str, ...]
    cells: int
    nodes: int
    channels: tuple[int, ...]
    """Width of each cell."""
    parameters: int
    defaults: Mapping[str, Option]
    """The default hyper-parameters of an adaptation."""
    limits: Limits
    scores: Mapping[str, Mapping[str, float]]
    """The figures of each benchmark."""
    provenance: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        """Return all fields as plain values for JSON."""
        return asdict(self)
