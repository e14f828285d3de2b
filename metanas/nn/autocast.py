"""Where torch computes in less than float32, for as long as a `with` lasts.

Notable:
- bf16 is torch's autocast: convolutions and products of matrices are lowered, and what has
  to be exact stays so (`unlowered`, `exact`).
- TF32 is a flag of the process, not of a thread: two threads that step on GPUs need one precision.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from metanas.spec.precision import Precision


def lowered(precision: Precision, device: torch.device) -> torch.autocast:
    """Convolutions and products of matrices in bf16, if that is the precision.

    Without a cache of lowered weights: a step uses each once, and a recorded one must not find any.
    """
    wanted = precision is Precision.BF16
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


@contextmanager
def tensor_cores(precision: Precision, device: torch.device) -> Iterator[None]:
    """TF32 on or off, whatever the process has it at; nothing on other devices than CUDA's."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision is Precision.TF32
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def unlowered(device: torch.device) -> AbstractContextManager[object]:
    """Products of float32 in float32 again."""
    if not torch.is_autocast_enabled(device.type):  # asking is cheaper than to disable it
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def exact(x: Tensor) -> Tensor:
    """The tensor as it would be had nothing been lowered."""
    return x.float() if x.dtype is torch.bfloat16 else x


def as_products(*factors: Tensor) -> list[Tensor]:
    """Factors as autocast would lower them, for functions whose gradients are written out."""
    kind = factors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(factors)
    return [factor.to(torch.get_autocast_dtype(kind)) for factor in factors]
