"""Snapshots: all that a run needs to go on as if it had never stopped, in one file.

It needs no generator's state, because every draw of a run depends on its seed and the number of the
iteration alone. The file is written atomically, and nothing in it is ever unpickled.
"""

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

from metanas import schema
from metanas.checkpoint import ALIVE_PREFIX, write_atomic
from metanas.config import RunConfig
from metanas.errors import CheckpointError, InvalidInput
from metanas.genotype import CELL_KINDS
from metanas.inner import Moments
from metanas.runlog import SNAPSHOT_FILE
from metanas.train import MetaTrainer

FREE = {
    "train": (
        "iterations", "validate_every", "snapshot_every", "snapshot_seconds", "log_every",
        "threads", "stack", "start", "meta_lr_weights", "meta_lr_alphas", "meta_lr_rates",
        "weight_lr", "gradient_clip",
    ),
    "search": ("alpha_lr",),
    "data": ("path", "more", "unreadable"),
    "adapt": ("shift_pixels",),
}  # fmt: skip
"""What may differ when a run is resumed: how long, how often, where data and the folder that it
started from lie now, what happens to images that cannot be read, rates that made it diverge, and
how often finished models look at an image."""
UNREADABLE = (OSError, SafetensorError, InvalidInput, ValueError, KeyError, TypeError, RuntimeError)
"""What reading a snapshot raises when the file is not what `save_snapshot` wrote."""


@dataclass(frozen=True)
class Best:
    """The best validation so far: pruned accuracy, and the iteration that reached it."""

    accuracy: float = -1.0
    iteration: int = 0


def save_snapshot(folder: Path, trainer: MetaTrainer, best: Best) -> None:
    """Write all that the run needs to go on as if it had never stopped, in one file."""
    header = {
        "config": schema.dump(trainer.config),
        "iteration": trainer.iteration,
        "best": schema.dump(best),
        "data": trainer.data,
    }
    raw = safetensors.torch.save(_tensors(trainer), {"run": json.dumps(header)})
    write_atomic(folder / SNAPSHOT_FILE, raw)


def _tensors(trainer: MetaTrainer) -> dict[str, Tensor]:
    """The tensors of a snapshot."""
    tensors = {"params": trainer.params, "mean": trainer.mean, "factors": trainer.factors}
    for name, moments in (("moments", trainer.moments), ("outer", trainer.outer)):
        tensors |= {f"{name}.{key}": value for key, value in vars(moments).items()}
    for kind in CELL_KINDS:
        tensors[ALIVE_PREFIX + kind] = trainer.supernet.cell_alpha(kind).alive.to(torch.uint8)
    # safetensors refuses tensors that share memory, as parameters and their mean may
    return {name: value.clone() for name, value in tensors.items()}


def load_snapshot(folder: Path, trainer: MetaTrainer) -> Best:
    """Bring a fresh trainer of the same configuration to where the run in `folder` stood.

    What `FREE` names may differ; everything else must not.

    Raises:
        CheckpointError: no snapshot, a damaged one, or one of another configuration.
    """
    with _reading(folder) as path:
        header = _header(path)
        _check_same(path, header["config"], trainer.config)
        if header["data"] != trainer.data:
            message = f"{path} was written by a run on other classes or numbers of images"
            raise CheckpointError("CHECKPOINT_FORMAT", message)
        _restore(trainer, header, safetensors.torch.load(path.read_bytes()))
        return schema.build(Best, header["best"])


def check_snapshot(folder: Path, config: RunConfig) -> None:
    """Refuse early what `load_snapshot` would not restore, as far as the header tells.

    Raises:
        CheckpointError: as there.
    """
    with _reading(folder) as path:
        _check_same(path, _header(path)["config"], config)


def _header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["run"])
    return header


@contextmanager
def _reading(folder: Path) -> Iterator[Path]:
    """Where a snapshot is; what goes wrong with it becomes a `CheckpointError`."""
    path = folder / SNAPSHOT_FILE
    try:
        yield path
    except FileNotFoundError as error:
        message = f"{folder} has no {SNAPSHOT_FILE} to resume from; start without --resume"
        raise CheckpointError("CHECKPOINT_MISSING", message) from error
    except UNREADABLE as error:
        raise CheckpointError("CHECKPOINT_DAMAGED", f"{path} cannot be read: {error!r}") from error


def _check_same(path: Path, stored: dict[str, Any], config: RunConfig) -> None:
    ours = json.loads(json.dumps(schema.dump(config)))
    for section, names in FREE.items():
        for name in names:
            stored[section].pop(name, None)
            ours[section].pop(name)
    there, here = _flat(stored), _flat(ours)
    differing = [
        f"{name} is {json.dumps(there.get(name))} there and {json.dumps(here.get(name))} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differing:
        message = f"{path} was written with another configuration: {'; '.join(differing[:5])}"
        raise CheckpointError("CHECKPOINT_FORMAT", message)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration by what `--set` calls them."""
    return {
        f"{section}.{name}" if name else section: each
        for section, value in config.items()
        for name, each in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _restore(trainer: MetaTrainer, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    expected = _tensors(trainer)
    for name, like in expected.items():
        value = tensors[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"{name} is {tuple(value.shape)} {value.dtype}")
    trainer.iteration = int(header["iteration"])
    # copies: the file's tensors lie at any address, and sums would be taken in another order
    params, mean, factors = (tensors[name].clone() for name in ("params", "mean", "factors"))
    trainer.params, trainer.mean, trainer.factors = params, mean, factors
    trainer.moments, trainer.outer = (
        Moments(**{key: tensors[f"{name}.{key}"].clone() for key in ("first", "second", "steps")})
        for name in ("moments", "outer")
    )
    for kind in CELL_KINDS:
        trainer.supernet.cell_alpha(kind).alive.copy_(tensors[ALIVE_PREFIX + kind].bool())
