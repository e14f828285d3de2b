"""What tests of runs on disk share."""

import json
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from metanas.checkpoint import load_checkpoint
from metanas.config import RunConfig
from metanas.runlog import SNAPSHOT_FILE
from metanas.train import Progress


def ignore(seen: Progress) -> None:
    pass


def state(folder: Path) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
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
    cards = [load_checkpoint(folder / "checkpoint").card for folder in (one, other)]
    assert cards[0] == cards[1]


def without_data(config: RunConfig) -> RunConfig:
    """The same, but that reading its data would be an error."""
    return replace(config, data=replace(config.data, path="nowhere.npz"))
