"""Helpers of the tests of runs on disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from metanas.checkpoint import load_checkpoint
from metanas.errors import CheckpointError
from metanas.runs.log import SNAPSHOT_FILE
from metanas.runs.run import run
from metanas.runs.snapshots import sha256_of
from metanas.spec.card import CheckpointCard
from metanas.training.config import RunConfig
from metanas.training.trainer import Progress


def ignore(seen: Progress) -> None:
    pass


def state(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a snapshot."""
    raw = (folder / SNAPSHOT_FILE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["run"])
    return header, safetensors.torch.load(raw)


def assert_same_run(one: Path, other: Path) -> None:
    (header, tensors), (header_too, tensors_too) = state(one), state(other)
    assert header == header_too
    assert tensors.keys() == tensors_too.keys()
    for name, value in tensors.items():
        assert torch.equal(value, tensors_too[name]), name
    assert timeless(one) == timeless(other)


def timeless(folder: Path) -> CheckpointCard:
    """The card of the run's checkpoint, without how long it took and when."""
    card = load_checkpoint(folder / "checkpoint").card
    told = {name: v for name, v in card.provenance.items() if name not in ("time", "date")}
    return replace(card, provenance=told)


def without_data(config: RunConfig) -> RunConfig:
    """The same, but that reading its data would be an error."""
    return replace(config, data=replace(config.data, path="nowhere.npz"))


def refused(config: RunConfig, folder: Path, *, resume: bool = True) -> CheckpointError:
    """The error with which this run is refused, at its begin or its resumption."""
    with pytest.raises(CheckpointError) as caught:
        run(config, folder, resume=resume, on_progress=ignore)
    assert str(folder) in str(caught.value)
    return caught.value


def rewrite(
    folder: Path,
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object],
) -> None:
    """Change header and tensors of a snapshot, and vouch for the result."""
    header, tensors = state(folder)
    change(header, tensors)
    text = json.dumps(header)
    vouched = {"run": text, "sha256": sha256_of(text, tensors)}
    (folder / SNAPSHOT_FILE).write_bytes(safetensors.torch.save(tensors, vouched))
