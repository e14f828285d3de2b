"""Drop path: whole operations are left out of a training step, row by row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metanas.nn.functional import Rows


@dataclass(frozen=True)
class DropPath:
    """Leave an operation out with probability `rate`, and scale what is left to match.

    Drawn for each row (Larsson et al., arXiv:1605.07648, local drop path, as DARTS-like cells use
    it: never on an identity). There is one generator a task.
    """

    rate: float
    generators: tuple[torch.Generator, ...]

    def factors(self, edges: int, ops: int, x: Tensor, rows: Rows) -> Tensor:
        """Draw the factors of every operation's rows, `(edges, ops, R, 1, 1, 1)`.

        Drawn for all operations, whether or not they run: what a task draws must not depend on
        the others of its stack.
        """
        shape = (edges, ops, len(x) // rows.tasks)
        draws = [torch.rand(shape, generator=generator) for generator in self.generators]
        kept = (torch.cat(draws, dim=2) >= self.rate).to(x)
        return (kept / (1 - self.rate))[..., None, None, None]
