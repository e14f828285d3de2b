"""Snapshots: the whole state of a run in one file, from which it resumes exactly.

A snapshot has no state of generators: each random draw depends on the seed of the run and the
number of the iteration alone. The file is written atomically. It contains its format version and
the SHA-256 of its contents, and reading it unpickles nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metanas.checkpoint import ALIVE_PREFIX, check_finite
from metanas.errors import CheckpointError, Diverged, InvalidInput
from metanas.runs.log import CHECKPOINT, LOG_FILE, SNAPSHOT_FILE
from metanas.spec.card import CARD_FILE
from metanas.spec.genotype import CELL_KINDS
from metanas.supernet.adam import Moments
from metanas.training.config import RunConfig
from metanas.training.trainer import MetaTrainer
from metanas.util import dataclass_json
from metanas_data.files import write_atomic

FORMAT_VERSION = 2
FREE = (
    "description", "data.path", "data.more", "data.unreadable", "data.licence",
    "adapt.shift_pixels", "search.alpha_lr", "train.iterations", "train.validate_every",
    "train.snapshot_every", "train.snapshot_seconds", "train.log_every", "train.threads",
    "train.stack", "train.start", "train.meta_lr_weights", "train.meta_lr_alphas",
    "train.meta_lr_rates", "train.weight_lr", "train.gradient_clip",
)  # fmt: skip
"""Keys that may change when a run is resumed: the description, length and intervals, places and
licence of the data, the treatment of unreadable images, rates that made the run diverge, and the
views of an image in the exported models."""
UNREADABLE = (
    OSError, SafetensorError, InvalidInput, Diverged, ValueError, KeyError, TypeError, RuntimeError,
)  # fmt: skip
"""Errors of reading a file that `save_snapshot` did not write."""


@dataclass(frozen=True)
class Best:
    """The best validation so far: pruned accuracy, and the iteration that reached it."""

    accuracy: float = -1.0
    iteration: int = 0


def save_snapshot(folder: Path, trainer: MetaTrainer, best: Best) -> None:
    """Write the state of the run.

    Raises:
        Diverged: a tensor is not finite; the older snapshot stays.
    """
    tensors = _tensors(trainer)
    check_finite(tensors)
    run = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "config": dataclass_json.dump(trainer.config),
            "iteration": trainer.iteration,
            "guessing": trainer.guessing,
            "guessed": trainer.guessed,
            "best": dataclass_json.dump(best),
            "data": trainer.data,
        }
    )
    raw = safetensors.torch.save(tensors, {"run": run, "sha256": sha256_of(run, tensors)})
    write_atomic(folder / SNAPSHOT_FILE, raw)


def sha256_of(run: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 in hex of a header and tensors; their order in the file is irrelevant."""
    digest = hashlib.sha256(run.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).numpy().data)
    return digest.hexdigest()


def _tensors(trainer: MetaTrainer) -> dict[str, Tensor]:
    """Return the tensors of a snapshot."""
    tensors = {"params": trainer.params, "factors": trainer.factors}
    for name, moments in (("moments", trainer.moments), ("outer", trainer.outer)):
        tensors |= {f"{name}.{key}": value for key, value in vars(moments).items()}
    for kind in CELL_KINDS:
        tensors[ALIVE_PREFIX + kind] = trainer.supernet.cell_alpha(kind).alive.to(torch.uint8)
    return tensors


def load_snapshot(folder: Path, trainer: MetaTrainer) -> Best:
    """Give a new trainer the state of the run in `folder`, and return the best validation.

    Both configurations must be equal but for the keys in `FREE`. A key that the snapshot lacks has
    its default.

    Raises:
        CheckpointError: the snapshot is missing, damaged, or of another configuration.
    """
    with _reading(folder) as path:
        header, tensors = _read(path)
        _check_same(path, header["config"], trainer.config)
        if header["data"] != trainer.data:
            message = f"{path} was written by a run with other classes or numbers of images; "
            message += "name the same data, or choose another --out"
            raise CheckpointError("CHECKPOINT_FORMAT", message)
        _restore(trainer, header, tensors)
        return dataclass_json.build(Best, header["best"])


def check_snapshot(folder: Path, config: RunConfig) -> None:
    """Do the checks of `load_snapshot` that need no data.

    Raises:
        CheckpointError: the snapshot is missing, damaged, or of another configuration.
    """
    with _reading(folder) as path:
        _check_same(path, _read(path)[0]["config"], config)


def way_out(folder: Path) -> str:
    """Return the advice for a run that cannot be resumed."""
    best = folder / CHECKPOINT
    if not (best / CARD_FILE).exists():
        return "choose another --out"
    start = f"--set 'train.start=\"{best}\"'"
    return f"choose another --out; the best network so far is in {best}: start from it with {start}"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and the tensors of a snapshot, and verify them."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    header = json.loads(metadata.get("run", "null"))
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        fault = f"has format version {version}; this release reads {FORMAT_VERSION}"
        fault = "is not a snapshot of this program" if version is None else fault
        raise CheckpointError("CHECKPOINT_FORMAT", f"{path} {fault}; {way_out(path.parent)}")
    if metadata.get("sha256") != sha256_of(metadata["run"], tensors):
        raise ValueError("its contents do not have the SHA-256 that it states")
    check_finite(tensors)
    return header, tensors


@contextmanager
def _reading(folder: Path) -> Iterator[Path]:
    """Turn errors of the file into `CheckpointError`."""
    path = folder / SNAPSHOT_FILE
    try:
        yield path
    except FileNotFoundError as error:
        parts = any((folder / name).exists() for name in (LOG_FILE, CHECKPOINT))
        message = f"{folder} has no {SNAPSHOT_FILE} to resume from; "
        message += way_out(folder) if parts else "start without --resume"
        raise CheckpointError("CHECKPOINT_MISSING", message) from error
    except UNREADABLE as error:
        message = f"{path} is damaged ({error}); restore it from a copy, or {way_out(folder)}"
        raise CheckpointError("CHECKPOINT_DAMAGED", message) from error


def _check_same(path: Path, stored: Mapping[str, Any], config: RunConfig) -> None:
    try:
        older = dataclass_json.build(RunConfig, stored)
    except InvalidInput as error:
        message = f"{path} was written by another release, with settings that this release "
        message += f"refuses: {error}; resume with that release, or {way_out(path.parent)}"
        raise CheckpointError("CHECKPOINT_FORMAT", message) from error
    if differing := dataclass_json.differences(older, config, FREE):
        message = f"{path} was written with another configuration: {'; '.join(differing[:5])}"
        message += "; resume with that one, or choose another --out"
        raise CheckpointError("CHECKPOINT_FORMAT", message)


def _restore(trainer: MetaTrainer, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    expected = _tensors(trainer)
    for name, like in expected.items():
        value = tensors[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"{name} is {tuple(value.shape)} {value.dtype}")
    trainer.iteration = int(header["iteration"])
    trainer.guessing, trainer.guessed = int(header["guessing"]), int(header["guessed"])
    # copy: the tensors of the file lie at any address, which changes the order of sums
    trainer.params, trainer.factors = tensors["params"].clone(), tensors["factors"].clone()
    trainer.moments, trainer.outer = (
        Moments(**{key: tensors[f"{name}.{key}"].clone() for key in ("first", "second", "steps")})
        for name in ("moments", "outer")
    )
    for kind in CELL_KINDS:
        trainer.supernet.cell_alpha(kind).alive.copy_(tensors[ALIVE_PREFIX + kind].bool())
