"""Records of the server: adaptations, their progress, and models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from metanas.errors import InvalidInput, Violation
from metanas.spec.options import Option

MOST_PRIORITY = 9
EVERYBODY = "*"
"""The name that stands for all callers."""


class State(StrEnum):
    """The state of an adaptation."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True if the adaptation has ended."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The settings of a request, apart from its examples.

    timeout: seconds on a worker.
    deadline: seconds until the end, with the time in the queue.
    priority: order among the waiting adaptations of one caller; higher ones start first.
    reuse: True allows the answer to be an earlier adaptation with the same work.

    checkpoint: its name, or that of the universal search space.
    checkpoint_digest: its digest.

    Raises:
        InvalidInput: PRIORITY_INVALID.
    """

    checkpoint: str
    checkpoint_digest: str = ""
    overrides: Mapping[str, Option]
    seed: int
    classes: tuple[str, ...] | None
    request_id: str
    timeout: float | None
    deadline: float | None = None
    priority: int = 0
    reuse: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= MOST_PRIORITY:
            message = f"the priority must be from 0 to {MOST_PRIORITY}, not {self.priority}"
            raise InvalidInput.single("spec.priority", "PRIORITY_INVALID", message)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as stored in a record and sent to a caller; `status.describe` makes it.

    code: the canonical gRPC status code.
    omitted: violations that are not listed.
    retry_seconds: time until a retry can succeed; None if it cannot.
    """

    code: int
    reason: str
    message: str
    violations: tuple[Violation, ...] = ()
    omitted: int = 0
    retry_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProgressRecord:
    """One progress event of an adaptation, at `time` in nanoseconds since 1970.

    Measurements that do not apply to the stage are None.
    """

    sequence: int
    attempt: int
    time: int
    stage: str
    step: int
    steps: int
    loss: float | None = None
    accuracy: float | None = None
    temperature: float | None = None
    entropy: float | None = None
    branch: str = ""
    architecture: Mapping[str, float] = field(default_factory=dict)
    genotype_json: str = ""


@dataclass(frozen=True, kw_only=True)
class AdaptationRecord:
    """An adaptation. Times are in nanoseconds since 1970; 0 means not yet.

    checkpoint: its name, or that of the universal search space.
    overrides: the options that the caller set.
    classes: the class names that the caller declared, in order; None without a declaration.
    labels: the class names in the order of the model's outputs.
    owner: the name of the token that made it; empty without tokens.
    support: digest of the stored support set; empty when the adaptation has ended.
    work: digest of all that decides the model; empty if it was not recorded.
    timeout: most seconds on a worker.
    memory: bytes that the support set takes in a worker process.
    deadline: time at which it is ended; 0 stands for none.
    priority: as in `Spec`.
    losses: attempts that ended with the death of the worker process or of the server.
    trace: trace context of the call that made it; empty without one.
    """

    id: str
    owner: str = ""
    state: State = State.QUEUED
    checkpoint: str
    overrides: Mapping[str, Option]
    seed: int
    classes: tuple[str, ...] | None
    labels: tuple[str, ...]
    example_count: int
    support: str
    request_id: str
    request_digest: str
    work: str = ""
    timeout: float
    memory: int = 0
    deadline: int = 0
    priority: int = 0
    attempts: int = 0
    losses: int = 0
    create_time: int
    start_time: int = 0
    end_time: int = 0
    model: str = ""
    failure: Failure | None = None
    trace: str = ""

    def outlasts(self, other: "AdaptationRecord") -> bool:
        """Return True if no limit of time ends this adaptation before it would end the other."""
        in_time = not self.deadline or 0 < other.deadline <= self.deadline
        return in_time and self.timeout >= other.timeout


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model, with the settings of its owner. `id` and `owner` are those of its adaptation.

    create_time: in nanoseconds since 1970.
    pinned: True if retention does not delete it.
    shared_with: names of the callers that may read it, `EVERYBODY` among them, in order.
    """

    id: str
    owner: str = ""
    checkpoint: str
    sha256: str
    size_bytes: int
    labels: tuple[str, ...]
    genotype_json: str
    report_json: str
    create_time: int
    pinned: bool = False
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """A change of a model.

    pinned: its new value; None leaves it as it is.
    unshare: names that may not read it any more.
    share_with: names that may read it from now on, also those of `unshare`.
    """

    pinned: bool | None
    unshare: tuple[str, ...]
    share_with: tuple[str, ...]
