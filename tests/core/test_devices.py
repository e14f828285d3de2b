"""Devices by name, and the arithmetic that they use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metanas.checkpoint import load_checkpoint
from metanas.errors import CheckpointError
from metanas.nn.devices import use_float32


def set_tf32(matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = cudnn


def flags() -> list[bool]:
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    """Switch TF32 on, then restore the settings of the process."""
    matmul, cudnn = flags()
    set_tf32(True, True)
    yield
    set_tf32(matmul, cudnn)


def test_cuda_computes_in_float32() -> None:
    use_float32("cuda:0")
    assert flags() == [False, False]


def test_other_devices_leave_the_settings_alone() -> None:
    use_float32("cpu")
    assert flags() == [True, True]


def test_a_checkpoint_on_a_gpu_computes_in_float32(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):  # the folder is empty; no GPU is needed
        load_checkpoint(tmp_path, device="cuda")
    assert flags() == [False, False]
