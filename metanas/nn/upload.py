"""Copies from the host to a device: many tensors in one asynchronous copy."""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNED = 16
"""Alignment of tensors in a copy, in bytes; no type is longer."""


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
