"""Loaders that fail, or whose checkpoints fail, for worker processes to call."""

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import InvalidInput, MetanasError, UnknownName
from metanas.nn.functional import Rows
from metanas.nn.ops import OPS


class OddError(MetanasError):
    """An extension's error with a constructor that pickle cannot call again."""

    def __init__(self, *, why: str) -> None:
        super().__init__("ODD", f"odd: {why}")


class Mute(MetanasError):
    """An extension's error that never calls the constructor of its base."""

    def __init__(self, *, why: str) -> None:
        self.why = why


class Careless(InvalidInput):
    """An extension's error of bad input without violations."""

    def __init__(self, *, why: str) -> None:
        self.why = why


class Unreadable:
    """A value that the front cannot unpickle."""

    def __reduce__(self) -> tuple[type[OddError], tuple[str]]:
        return OddError, ("positional",)


def odd(folder: Path, *, device: str) -> Checkpoint:
    raise OddError(why=f"{folder.name} on {device}")


def mute(folder: Path, *, device: str) -> Checkpoint:
    raise Mute(why=f"{folder.name} on {device}")


def slow(folder: Path, *, device: str) -> Checkpoint:
    time.sleep(3600)
    raise OddError(why=f"{folder.name} on {device}")


def held(gate: Path, folder: Path, *, device: str) -> Checkpoint:
    """Load a checkpoint; the one process that takes the gate waits, with what it has loaded."""
    checkpoint = load_checkpoint(folder, device=device)
    taken = gate.with_suffix(".taken")
    with suppress(FileNotFoundError):
        gate.rename(taken)
        while taken.exists():
            time.sleep(0.01)
    return checkpoint


def paused(pause: Path, folder: Path, *, device: str) -> Checkpoint:
    """Load a checkpoint, after as many seconds as the file `pause` says."""
    with suppress(FileNotFoundError):
        time.sleep(float(pause.read_text(encoding="ascii")))
    return load_checkpoint(folder, device=device)


def careless(folder: Path, *, device: str) -> Checkpoint:
    """Fail as an extension does that subclasses the error of bad input carelessly."""
    raise Careless(why=f"{folder.name} on {device}")


class Missing(UnknownName):
    """An extension's error of a name that it does not know."""

    def __init__(self, *, what: str) -> None:
        super().__init__("table", what, ("a", "b"))


ERRORS: dict[str, Exception] = {
    "mute": Mute(why="running"),
    "odd": OddError(why="running"),
    "table": Missing(what="c"),
    "zero": ZeroDivisionError(),
}
"""The error of each checkpoint that fails while a job runs."""


class Failing(nn.Module):
    """Raises an error when it is evaluated."""

    def __init__(self, name: str, channels: int, stride: int) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        raise ERRORS[self.name]


def while_running(folder: Path, *, device: str) -> Checkpoint:
    """Load a checkpoint; an operation of those that `ERRORS` names raises the error."""
    if folder.name not in ERRORS:
        return load_checkpoint(folder, device=device)
    op = replace(OPS["max_pool_3x3"], build=partial(Failing, folder.name))
    return load_checkpoint(folder, ops={**OPS, "max_pool_3x3": op}, device=device)
