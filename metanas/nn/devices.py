"""Devices by name, checked before any work."""

import torch

from metanas.errors import InvalidInput


def device_of(name: str) -> torch.device:
    """The device of this name: cpu, cuda, cuda:1 ...

    Raises:
        InvalidInput: DEVICE_MISSING, there is none.
    """
    found = torch.cuda.device_count()
    known = ("cpu", "cuda", *(f"cuda:{index}" for index in range(found)))
    if name not in known or (name == "cuda" and not found):
        message = f"torch {torch.__version__} has no device {name!r}; it finds {found} CUDA devices"
        raise InvalidInput.single("--device", "DEVICE_MISSING", message)
    return torch.device(name)
