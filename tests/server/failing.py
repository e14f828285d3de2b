"""Loaders that fail in their own ways, for worker processes to call."""

import time
from pathlib import Path

from metanas.checkpoint import Checkpoint
from metanas.errors import MetanasError


class OddError(MetanasError):
    """An extension's error with a constructor that pickle cannot call again."""

    def __init__(self, *, why: str) -> None:
        super().__init__("ODD", f"odd: {why}")


class Mute(MetanasError):
    """An extension's error that never calls the constructor of its base."""

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
