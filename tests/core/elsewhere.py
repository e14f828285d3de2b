"""A device that is none: tensors that live elsewhere, on which the CPU computes.

Of a GPU it has what goes wrong most easily: tensors of the host and of the device do not meet in an
operation, and what crosses between the two is seen, and can be counted. Nothing is queued: a wait
shows as a crossing to the host.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("mps", 0)  # by a name for which torch initialises nothing
NAMES = (DEVICE, torch.device("meta"))
"""How Python calls it, and how torch does inside: of the latter autograd asks no queue."""
CROSSING = torch.ops.aten._to_copy.default
UP, DOWN = "to the device", "to the host"


class _There(torch.Tensor):
    """A tensor of the device; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, _counts: Counter[str]) -> Self:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=NAMES[1],
        )

    def __init__(self, held: Tensor, counts: Counter[str]) -> None:
        self.held, self.counts = held, counts

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    def tolist(self) -> Any:
        self.counts[DOWN] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_rest: Any) -> Any:
        raise AssertionError(f"{func} ran outside of the device's mode")


class Elsewhere(TorchDispatchMode):
    """While it is entered, `DEVICE` exists; `counts` says how often what crossed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counter[str]()

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        return _There(tensor.detach().clone(), self.counts)

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        found = list[Tensor]()
        tree_map(
            lambda each: found.append(each) if isinstance(each, Tensor) else None, (args, named)
        )
        there = any(isinstance(each, _There) for each in found)
        target = named.get("device")
        if there and func is torch.ops.aten._local_scalar_dense.default:
            self.counts[DOWN] += 1
            return func(held(found[0]))
        if target is not None:
            if func is CROSSING and there != (target in NAMES):
                self.counts[DOWN if there else UP] += 1
            there = target in NAMES
            named["device"] = torch.device("cpu")
        elif there:
            strangers = [each for each in found if not isinstance(each, _There) and each.ndim]
            assert not strangers, f"{func} mixes tensors of the host and of the device"
            assert not _counts_first(func, found), f"{func} waits for the device"
        args, named = tree_map(lambda each: getattr(each, "held", each), (args, named))
        out = func(*args, **named)
        if not there:
            return out
        return tree_map(
            lambda each: _There(each, self.counts) if isinstance(each, Tensor) else each, out
        )


def _counts_first(func: Any, tensors: list[Tensor]) -> bool:
    """True if the host has to read values before it knows the shape of the result."""
    index = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
    masked = index and any(each.dtype == torch.bool for each in tensors[1:])
    names = ("nonzero", "masked_select", "unique", "repeat_interleave.Tensor")
    return masked or any(name in str(func) for name in names)


def held(tensor: Tensor) -> Tensor:
    """The numbers of a tensor of the device."""
    assert isinstance(tensor, _There)
    return tensor.held
