"""Parameters as one flat vector, and the layout of the vector.

A step of an optimizer is then a dozen kernels instead of a dozen for each of several hundred small
tensors. One copy loads or reads the parameters of a task, and a meta-learner is vector arithmetic.
"""

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from metanas.supernet.alphas import is_alpha

Params = dict[str, Tensor]


class Layout:
    """The parameters of a supernet in one vector of `size` elements, weights before alphas.

    Vectors may have leading dimensions, of a stack of tasks for example.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.names = tuple(sorted(params, key=is_alpha))
        self.shapes = tuple(params[name].shape for name in self.names)
        self._sizes = [params[name].numel() for name in self.names]
        self.size = sum(self._sizes)
        self.groups = (
            sum(params[name].numel() for name in self.names if not is_alpha(name)),
            sum(params[name].numel() for name in self.names if is_alpha(name)),
        )
        """Numbers of elements of the weights and of the alphas."""

    @cached_property
    def _owner(self) -> Tensor:
        """Index of the parameter of each element, `(size,)`."""
        sizes = torch.tensor(self._sizes, dtype=torch.long)
        return torch.arange(len(self.names)).repeat_interleave(sizes)

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """Copy these parameters into a new vector `(size,)`."""
        return torch.cat([params[name].detach().reshape(-1) for name in self.names])

    def views(self, vector: Tensor) -> Params:
        """Return views of the parameters in a vector `(..., size)`, with its leading dimensions."""
        parts = zip(self.names, self.shapes, vector.split(self._sizes, dim=-1), strict=True)
        return {name: part.view((*vector.shape[:-1], *shape)) for name, shape, part in parts}

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of the weights and of the alphas in a vector `(..., size)`."""
        weights, alphas = vector.split(self.groups, dim=-1)
        return weights, alphas

    def where(self, chosen: Callable[[str], bool]) -> Tensor:
        """Return a mask `(size,)`: True for elements of parameters whose name is chosen."""
        return self.spread(torch.tensor([chosen(name) for name in self.names]))

    def spread(self, values: Tensor) -> Tensor:
        """Repeat the value of each parameter `(..., len(names))` for its elements `(..., size)`."""
        return values[..., self._owner.to(values.device)]

    def gather(self, vector: Tensor) -> Tensor:
        """Sum the elements of each parameter, `(..., size)` to `(..., len(names))`."""
        sums = vector.new_zeros(*vector.shape[:-1], len(self.names))
        return sums.index_add(-1, self._owner.to(vector.device), vector)
