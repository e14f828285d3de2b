"""Errors of the core: one tree. Each error has a stable reason, and a text with the next step.

```
MetanasError                     reason, str(error) for people
├── InvalidInput                 a wrong input of the caller; `violations` lists the faults
├── UnknownName                  a checkpoint, op ... that does not exist; `known` lists the others
├── CheckpointError              CHECKPOINT_DAMAGED, CHECKPOINT_FORMAT, CHECKPOINT_MISSING,
│                                CHECKPOINT_CHANGED: on disk, after loading;
│                                RUN_EXISTS, RUN_IN_USE, RUN_MISSING, RUN_UNREADABLE, WRITE_FAILED:
│                                the folder of a training run;
│                                TRUNK_MISSING, TRUNK_DAMAGED: the pretrained weights
├── DatasetError                 of `metanas_data.errors`
├── EvaluationError              of `metanas_data.errors`
├── ClusterError                 CLUSTER_UNREACHABLE, CLUSTER_NOT_STARTED, CLUSTER_TOO_SMALL,
│                                CLUSTER_LOST, WORKERS_DIED, WORKER_FAILED, EXTRA_MISSING
├── Cancelled                    CANCELLED: the caller asked for the work to stop
├── Diverged                     DIVERGED: the loss became NaN or infinite, or that of guessing
├── OutOfMemory                  OUT_OF_MEMORY: the device is too small for the support set
└── ExportMismatch               EXPORT_MISMATCH: ONNX Runtime disagrees with torch; our defect
```

Reasons of `InvalidInput`:

- images: IMAGE_UNREADABLE, IMAGE_TRUNCATED, IMAGE_FORMAT, IMAGE_TOO_LARGE, IMAGE_TOO_MANY_PIXELS,
  IMAGE_TOO_SMALL, SAME_IMAGE
- arrays: TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CHANNELS, TENSOR_NOT_FINITE, TENSOR_RANGE
- tasks: NO_EXAMPLES, ONE_CLASS, CLASS_WITHOUT_EXAMPLES, TOO_MANY_WAYS, TOO_MANY_SHOTS,
  TOO_MANY_EXAMPLES, TOO_MANY_BYTES, TOO_MANY_PIXELS, TOO_MUCH_MEMORY, DUPLICATE_LABEL,
  LABEL_EMPTY, LABEL_TOO_LONG, LABEL_NOT_UTF8, LABEL_CONTROL, LABEL_UNKNOWN
- folders: FOLDER_LAYOUT, FOLDER_UNREADABLE
- options: OPTION_OUT_OF_RANGE, OPTION_UNKNOWN, DEVICE_MISSING, VARIANT_REFUSED
- budgets: BUDGET_TOO_SMALL, PROFILE_MISSING
- genotypes: GENOTYPE_MALFORMED

Constructors take positional arguments only: worker processes of a meta-training send their errors
by pickle, and an exception is pickled as its type and its positional arguments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metanas_data.errors import DatasetError as DatasetError
from metanas_data.errors import MetanasError as MetanasError

MAX_VIOLATIONS = 20  # as many as fit into a gRPC trailer of 8 KiB
SHOWN_IN_TEXT = 3


@dataclass(frozen=True)
class Violation:
    """One fault of an input: its place (`examples[3].image`), its reason, and a text for people."""

    field: str
    reason: str
    message: str


class InvalidInput(MetanasError):
    """An input of the caller that cannot be used.

    `violations` holds the first `MAX_VIOLATIONS` faults, and `omitted` counts the others. `reason`
    is the reason of the first fault.
    """

    violations: tuple[Violation, ...]
    omitted: int

    def __init__(self, violations: Iterable[Violation], omitted: int = 0, /) -> None:
        faults = tuple(violations)
        if not faults:
            raise ValueError("InvalidInput needs at least one violation")
        self.violations = faults[:MAX_VIOLATIONS]
        self.omitted = omitted + len(faults) - len(self.violations)
        # the tuple replaces the argument, which may be an iterator: those cannot be pickled
        self.args = (self.violations, self.omitted)
        super().__init__(faults[0].reason, _summary(self.violations, self.omitted))

    @classmethod
    def single(cls, field: str, reason: str, message: str) -> "InvalidInput":
        """Make the error of a single fault."""
        return cls((Violation(field, reason, message),))

    def within(self, parent: str) -> "InvalidInput":
        """Put the faults into a parent: `image` within `examples[3]` is `examples[3].image`."""
        moved = (Violation(f"{parent}.{v.field}", v.reason, v.message) for v in self.violations)
        return InvalidInput(moved, self.omitted)


class UnknownName(MetanasError):
    """A name that does not exist, of the kind "checkpoint", "op" ...

    hint: a sentence with a further remedy.
    """

    kind: str
    name: str
    known: tuple[str, ...]

    def __init__(self, kind: str, name: str, known: Sequence[str], hint: str = "", /) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(known)
        reason = "UNKNOWN_" + kind.upper().replace(" ", "_").replace("-", "_")
        choices = ", ".join(self.known) or "none"
        more = f". {hint}" if hint else ""
        super().__init__(reason, f"there is no {kind} named {name!r}; known: {choices}{more}")


class CheckpointError(MetanasError):
    """A folder of a checkpoint or of a run that cannot be used, or not be written to."""


class ClusterError(MetanasError):
    """A cluster that cannot be reached, or that has lost its workers."""


class Cancelled(MetanasError):
    """The caller stopped the work between two steps."""

    def __init__(self, message: str = "the work was cancelled", /) -> None:
        super().__init__("CANCELLED", message)


class Diverged(MetanasError):
    """The loss became NaN or infinite, or stays that of guessing."""

    def __init__(self, message: str = "the loss is not finite; lower the learning rate", /) -> None:
        super().__init__("DIVERGED", message)


class OutOfMemory(MetanasError):
    """The device has too little memory for a support set, even on its own."""

    def __init__(self, message: str, /) -> None:
        super().__init__("OUT_OF_MEMORY", message)


class ExportMismatch(MetanasError):
    """The exported file and the network disagree; the file is withheld."""

    def __init__(self, message: str, /) -> None:
        super().__init__("EXPORT_MISMATCH", message)


def _summary(violations: Sequence[Violation], omitted: int) -> str:
    shown = [f"{v.field}: {v.message}" for v in violations[:SHOWN_IN_TEXT]]
    more = len(violations) - len(shown) + omitted
    if more:
        shown.append(f"and {more} more")
    return "; ".join(shown)
