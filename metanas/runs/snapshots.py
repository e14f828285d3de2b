"""Snapshots: all that a run needs to go on as if it had never stopped, in one file.

It needs no generator's state, because every draw of a run depends on its seed and the number of the
iteration alone. The file is written atomically, says the version of its format and the SHA-256 of
all that is in it, and nothing in it is ever unpickled.
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
FREE = {
    "train": (
        "iterations", "validate_every", "snapshot_every", "snapshot_seconds", "log_every",
        "threads", "stack", "start", "meta_lr_weights", "meta_lr_alphas", "meta_lr_rates",
        "weight_lr", "gradient_clip",
    ),
    "search": ("alpha_lr",),
    "data": ("path", "more", "unreadable", "licence"),
    "adapt": ("shift_pixels",),
}  # fmt: skip
"""What may differ when a run is resumed, besides its description: how long, how often, where data
and the folder that it started from lie now and on which terms, what happens to images that cannot
be read, rates that made it diverge, and how often finished models look at an image."""
UNREADABLE = (
    OSError, SafetensorError, InvalidInput, Diverged, ValueError, KeyError, TypeError, RuntimeError,
)  # fmt: skip
"""What reading a snapshot raises where the file is not what `save_snapshot` wrote."""


@dataclass(frozen=True)
class Best:
    """The best validation so far: pruned accuracy, and the iteration that reached it."""

    accuracy: float = -1.0
    iteration: int = 0


def save_snapshot(folder: Path, trainer: MetaTrainer, best: Best) -> None:
    """Write all that the run needs to go on as if it had never stopped, in one file.

    Raises:
        Diverged: a tensor is not finite; what was there before stays.
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
    """SHA-256 in hex of a snapshot's header and tensors, whatever their order in the file."""
    digest = hashlib.sha256(run.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).numpy().data)
    return digest.hexdigest()


def _tensors(trainer: MetaTrainer) -> dict[str, Tensor]:
    """The tensors of a snapshot."""
    tensors = {"params": trainer.params, "factors": trainer.factors}
    for name, moments in (("moments", trainer.moments), ("outer", trainer.outer)):
        tensors |= {f"{name}.{key}": value for key, value in vars(moments).items()}
    for kind in CELL_KINDS:
        tensors[ALIVE_PREFIX + kind] = trainer.supernet.cell_alpha(kind).alive.to(torch.uint8)
    return tensors


def load_snapshot(folder: Path, trainer: MetaTrainer) -> Best:
    """Bring a fresh trainer of the same configuration to where the run in `folder` stood.

    What `FREE` names may differ, and what a snapshot says nothing of has its default; everything
    else must be the same.

    Raises:
        CheckpointError: no snapshot, a damaged one, or one of another configuration.
    """
    with _reading(folder) as path:
        header, tensors = _read(path)
        _check_same(path, header["config"], trainer.config)
        if header["data"] != trainer.data:
            message = f"{path} was written by a run on other classes or numbers of images; "
            message += "name the same data, or choose another --out"
            raise CheckpointError("CHECKPOINT_FORMAT", message)
        _restore(trainer, header, tensors)
        return dataclass_json.build(Best, header["best"])


def check_snapshot(folder: Path, config: RunConfig) -> None:
    """Refuse early what `load_snapshot` would not restore, as far as can be told without data.

    Raises:
        CheckpointError: as there.
    """
    with _reading(folder) as path:
        _check_same(path, _read(path)[0]["config"], config)


def what_else(folder: Path) -> str:
    """Say the way out of a folder that holds parts of a run that cannot be resumed."""
    best = folder / CHECKPOINT
    if not (best / CARD_FILE).exists():
        return "choose another --out"
    start = f"--set 'train.start=\"{best}\"'"
    return f"choose another --out; the best network so far is in {best}: start from it with {start}"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a snapshot, as they were written."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    header = json.loads(metadata.get("run", "null"))
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        told = f"has format version {version}; this release reads {FORMAT_VERSION}"
        what = "is not a snapshot of this program" if version is None else told
        raise CheckpointError("CHECKPOINT_FORMAT", f"{path} {what}; {what_else(path.parent)}")
    if metadata.get("sha256") != sha256_of(metadata["run"], tensors):
        raise ValueError("its contents do not have the SHA-256 that it states")
    check_finite(tensors)
    return header, tensors


@contextmanager
def _reading(folder: Path) -> Iterator[Path]:
    """Name the snapshot in errors of its file, as `CheckpointError`."""
    path = folder / SNAPSHOT_FILE
    try:
        yield path
    except FileNotFoundError as error:
        left = any((folder / name).exists() for name in (LOG_FILE, CHECKPOINT))
        message = f"{folder} has no {SNAPSHOT_FILE} to resume from; "
        message += what_else(folder) if left else "start without --resume"
        raise CheckpointError("CHECKPOINT_MISSING", message) from error
    except UNREADABLE as error:
        message = f"{path} is damaged ({error}); restore it from a copy, or {what_else(folder)}"
        raise CheckpointError("CHECKPOINT_DAMAGED", message) from error


def _check_same(path: Path, stored: Mapping[str, Any], config: RunConfig) -> None:
    try:
        there, here = (_flat(each) for each in (dataclass_json.build(RunConfig, stored), config))
    except InvalidInput as error:
        message = f"{path} was written by another release, with what this one does not take: "
        message += f"{error}; resume with that release, or {what_else(path.parent)}"
        raise CheckpointError("CHECKPOINT_FORMAT", message) from error
    free = {f"{section}.{name}" for section, names in FREE.items() for name in names}
    free.add("description")
    differing = [
        f"{name} is {json.dumps(there[name])} there and {json.dumps(here[name])} here"
        for name in sorted(there.keys() - free)
        if there[name] != here[name]
    ]
    if differing:
        message = f"{path} was written with another configuration: {'; '.join(differing[:5])}"
        message += "; resume with that, or choose another --out"
        raise CheckpointError("CHECKPOINT_FORMAT", message)


def _flat(config: RunConfig) -> dict[str, Any]:
    """The values of a configuration, as JSON has them, by what `--set` calls them."""
    return {
        f"{section}.{name}" if name else section: each
        for section, value in json.loads(json.dumps(dataclass_json.dump(config))).items()
        for name, each in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _restore(trainer: MetaTrainer, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    expected = _tensors(trainer)
    for name, like in expected.items():
        value = tensors[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"{name} is {tuple(value.shape)} {value.dtype}")
    trainer.iteration = int(header["iteration"])
    trainer.guessing, trainer.guessed = int(header["guessing"]), int(header["guessed"])
    # copies: the file's tensors lie at any address, and sums would be taken in another order
    trainer.params, trainer.factors = tensors["params"].clone(), tensors["factors"].clone()
    trainer.moments, trainer.outer = (
        Moments(**{key: tensors[f"{name}.{key}"].clone() for key in ("first", "second", "steps")})
        for name in ("moments", "outer")
    )
    for kind in CELL_KINDS:
        trainer.supernet.cell_alpha(kind).alive.copy_(tensors[ALIVE_PREFIX + kind].bool())
