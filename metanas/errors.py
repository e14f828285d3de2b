"""The errors of the core: one tree, each with a stable reason and a text that says what to do.

```
MetanasError                     reason, str(error) for people
├── InvalidInput                 what the caller sent is wrong; violations: all that was found
├── UnknownName                  a checkpoint, op ... that does not exist; lists the known ones
├── CheckpointError              CHECKPOINT_DAMAGED, CHECKPOINT_FORMAT, CHECKPOINT_MISSING,
│                                CHECKPOINT_CHANGED: on disk, since it was loaded;
│                                RUN_EXISTS, RUN_IN_USE, WRITE_FAILED: of a training run's folder;
│                                TRUNK_MISSING, TRUNK_DAMAGED: of the weights it starts from
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
  TOO_MANY_EXAMPLES, TOO_MANY_BYTES, TOO_MANY_PIXELS, DUPLICATE_LABEL, LABEL_EMPTY,
  LABEL_TOO_LONG, LABEL_NOT_UTF8, LABEL_UNKNOWN
- options: OPTION_OUT_OF_RANGE, OPTION_UNKNOWN, DEVICE_MISSING
- genotypes: GENOTYPE_MALFORMED

Constructors take positional arguments only: worker processes of a meta-training send their errors
by pickle, and an exception is pickled as its type and its positional arguments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metanas_data.errors import DatasetError as DatasetError
from metanas_data.errors import MetanasError as MetanasError

MAX_VIOLATIONS = 20  # what fits into an 8 KiB gRPC trailer
SHOWN_IN_TEXT = 3


@dataclass(frozen=True)
class Violation:
    """One wrong thing: where (`examples[3].image`), which kind, and a sentence for people."""

    field: str
    reason: str
    message: str


class InvalidInput(MetanasError):
    """The caller's input is wrong.

    `violations` holds the first `MAX_VIOLATIONS` findings, `omitted` counts the rest; `reason` is
    the reason of the first one.
    """

    violations: tuple[Violation, ...]
    omitted: int

    def __init__(self, violations: Iterable[Violation], omitted: int = 0, /) -> None:
        found = tuple(violations)
        if not found:
            raise ValueError("InvalidInput needs at least one violation")
        self.violations = found[:MAX_VIOLATIONS]
        self.omitted = omitted + len(found) - len(self.violations)
        # an iterator would be used up by now, and is no thing to pickle
        self.args = (self.violations, self.omitted)
        super().__init__(found[0].reason, _summary(self.violations, self.omitted))

    @classmethod
    def single(cls, field: str, reason: str, message: str) -> "InvalidInput":
        """The common case of one violation."""
        return cls((Violation(field, reason, message),))

    def within(self, parent: str) -> "InvalidInput":
        """The same findings from outside: `image` within `examples[3]` is `examples[3].image`."""
        moved = (Violation(f"{parent}.{v.field}", v.reason, v.message) for v in self.violations)
        return InvalidInput(moved, self.omitted)


class UnknownName(MetanasError):
    """A name that nothing answers to; `kind` is what was looked for ("checkpoint", "op", ...).

    hint: what else to do, if there is more to say.
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
    """A checkpoint folder cannot be used: damaged, of another format version, or not there."""


class ClusterError(MetanasError):
    """The workers of a cluster cannot be had, or not be kept."""


class Cancelled(MetanasError):
    """The work was stopped between two steps because the caller asked for it."""

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
    """The exported file does not compute what the network computes; it never leaves."""

    def __init__(self, message: str, /) -> None:
        super().__init__("EXPORT_MISMATCH", message)


def _summary(violations: Sequence[Violation], omitted: int) -> str:
    shown = [f"{v.field}: {v.message}" for v in violations[:SHOWN_IN_TEXT]]
    more = len(violations) - len(shown) + omitted
    if more:
        shown.append(f"and {more} more")
    return "; ".join(shown)
