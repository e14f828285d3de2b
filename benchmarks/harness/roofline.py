"""The roofline of a call: its work over the rates of the machine.

Notes:
- Convolutions and matrix products count as in torch's own counter, except the backward pass of a
  grouped convolution, which that counter takes for a dense one.
- Bytes are those of each tensor that a kernel reads or writes, as if no cache held any of them.
"""

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.harness.timing import seconds

aten = torch.ops.aten
FREE = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty}
SIDE = 2048
"""Side of the square matrices whose product is timed."""
COPIED = 64 * 2**20
"""Bytes of the timed copy; more than the caches hold."""


def rates(repeats: int = 7) -> dict[str, float]:
    """Measure the rates of torch's present threads, in float32; medians.

    Returns:
        FLOP a second of a matrix product, and bytes read and written a second of a copy.
    """
    left, right = torch.rand(2, SIDE, SIDE)
    product, source = torch.empty_like(left), torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    flops = _typical(lambda: torch.mm(left, right, out=product), repeats)
    copy = _typical(lambda: target.copy_(source), repeats)
    return {"flops": 2 * SIDE**3 / flops, "bytes": 2 * COPIED / copy}


def _typical(work: Callable[[], object], repeats: int) -> float:
    work()
    return median(seconds(work) for _ in range(repeats))


def least_seconds(work: Mapping[str, float], speed: Mapping[str, float]) -> float:
    """Return the least time for this work at these rates: arithmetic or memory, the slower."""
    return max(work["flops"] / speed["flops"], work["bytes"] / speed["bytes"])


def work_of(call: Callable[[], object]) -> dict[str, int]:
    """Count the kernels, FLOP and bytes of a call, backward passes included."""
    with _Counter() as counter:
        call()
    return {"kernels": counter.kernels, "flops": counter.flops, "bytes": counter.bytes}


class _Counter(TorchDispatchMode):
    """Count the work between entering and leaving."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = 0
        self.flops = 0
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        out = func(*args, **named)
        if not _is_free(func):
            tensors = [x for x in tree_leaves((args, named, out)) if isinstance(x, Tensor)]
            self.kernels += 1
            self.flops += _flops(func, args, named, out)
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


def _is_free(func: Any) -> bool:
    """Return True for an operation that only makes a view or allocates memory."""
    if func.overloadpacket in FREE:
        return True
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _flops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    packet: Any = func.overloadpacket
    if packet is aten.convolution_backward:
        gradient, weight, mask = args[0], args[2], args[10]
        passes = int(mask[0]) + int(mask[1])
        return int(2 * gradient.numel() * weight[0].numel() * passes)
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=out)) if count else 0
