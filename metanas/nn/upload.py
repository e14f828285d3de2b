"""The one way from the host to a device: many tensors, one copy, and nobody waits for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNED = 16
"""Bytes between which tensors of a copy begin; no type is longer."""


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host on the device that computes with them.

    On the CPU these are the tensors themselves. To a GPU they go together, from pinned memory.
    """
    if device.type == "cpu":
        return list(tensors)
    size = sum(map(_room, tensors))
    host = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for place, value in zip(_places(host, tensors), tensors, strict=True):
        place.copy_(value)
    return _places(host.to(device, non_blocking=True), tensors)


def _room(tensor: Tensor) -> int:
    """Bytes that a tensor takes, up to where the next may begin."""
    return -(-tensor.nbytes // ALIGNED) * ALIGNED


def _places(buffer: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views into a buffer, with these shapes and types, one after the other."""
    parts = buffer.split([_room(tensor) for tensor in tensors])
    return [
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]
