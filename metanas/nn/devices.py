"""Devices by name, the arithmetic that they use, and copies to them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metanas.errors import InvalidInput

ALIGNED = 16
"""Alignment of tensors in a copy, in bytes; no type is longer."""


def device_of(name: str) -> torch.device:
    """Return the device of this name: cpu, cuda, cuda:1 ...

    Raises:
        InvalidInput: DEVICE_MISSING: there is none.
    """
    count = torch.cuda.device_count()
    known = ("cpu", "cuda", *(f"cuda:{index}" for index in range(count)))
    if name not in known or (name == "cuda" and not count):
        message = f"torch {torch.__version__} has no device {name!r}; it finds {count} CUDA devices"
        raise InvalidInput.single("--device", "DEVICE_MISSING", message)
    return torch.device(name)


def use_float32(device: torch.device | str) -> None:
    """Make convolutions and matrix products on a CUDA device exact to float32.

    cuDNN rounds factors to TF32 (10 bits) by default. The setting holds for the whole process.
    """
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors from the host to a device.

    The CPU gets the tensors themselves. A GPU gets one copy from pinned memory.
    """
    if device.type == "cpu":
        return list(tensors)
    size = sum(map(_room, tensors))
    host = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for place, value in zip(_places(host, tensors), tensors, strict=True):
        place.copy_(value)
    return _places(host.to(device, non_blocking=True), tensors)


def _room(tensor: Tensor) -> int:
    """Size of a tensor in bytes, rounded up to the alignment."""
    return -(-tensor.nbytes // ALIGNED) * ALIGNED


def _places(buffer: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return consecutive views into a buffer with these shapes and types."""
    parts = buffer.split([_room(tensor) for tensor in tensors])
    return [
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]
