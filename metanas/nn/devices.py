"""Devices by name, and the arithmetic that they use."""

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


def use_float32(device: torch.device | str) -> None:
    """Make convolutions and matrix products on a CUDA device exact to float32.

    cuDNN rounds factors to TF32 (10 bits) by default. The setting holds for the whole process.
    """
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
