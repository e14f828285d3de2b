"""Counts what a call asks of the machine: kernels, floating-point operations, bytes touched.

Notable:
- Convolutions and matrix products count as torch's own counter counts them, but for the backward
  pass of a grouped convolution, which that one counts as if it were dense.
- Bytes are those of every tensor that a kernel reads or writes, as if no cache held any of them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
FREE = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty}


class Work(TorchDispatchMode):
    """Everything between entering and leaving, the backward passes too."""

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
        given = dict(kwargs or {})
        out = func(*args, **given)
        if not _is_free(func):
            tensors = [x for x in tree_leaves((args, given, out)) if isinstance(x, Tensor)]
            self.kernels += 1
            self.flops += _flops(func, args, given, out)
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


def work_of(call: Callable[[], object]) -> dict[str, int]:
    """Kernels, FLOP and bytes of a call."""
    with Work() as work:
        call()
    return {"kernels": work.kernels, "flops": work.flops, "bytes": work.bytes}


def _is_free(func: Any) -> bool:
    """Whether it only makes a view, or room."""
    if func.overloadpacket in FREE:
        return True
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _flops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    packet: Any = func.overloadpacket
    if packet is aten.convolution_backward:
        gradient, weight, mask = args[0], args[2], args[10]
        ways = int(mask[0]) + int(mask[1])
        return int(2 * gradient.numel() * weight[0].numel() * ways)
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=out)) if count else 0
