"""Drop path: whole operations are left out of a training step, row by row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metanas.kernels import Rows


@dataclass(frozen=True)
class DropPath:
    """Zero what an operation returns with probability `rate`, and scale what is left to match.

    Drawn for each row (Larsson et al., arXiv:1605.07648, local drop path, as DARTS-like cells use
    it: never on an identity). There is one generator a task.
    """

    rate: float
    generators: tuple[torch.Generator, ...]

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """The rows `(R, C, H, W)` of a stack of tasks, some of them zero."""
        count = len(x) // rows.tasks
        draws = [torch.rand(count, generator=generator) for generator in self.generators]
        kept = torch.cat(draws).to(x) >= self.rate
        return x * (kept.to(x) / (1 - self.rate))[:, None, None, None]
