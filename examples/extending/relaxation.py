"""A new relaxation: sparsemax, which gives weak candidates a weight of exactly zero.

Martins & Astudillo, arXiv:1602.02068, algorithm 1. Candidates without weight are not evaluated.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from examples.extending.common import digits, small_config, train
from metanas.supernet.relaxations import RELAXATIONS
from metanas.testing import check_relaxation
from metanas.training.extensions import Extensions


@dataclass(frozen=True)
class Sparsemax:
    """The Euclidean projection of logits over temperature onto the simplex."""

    temperature: float = 1.0

    def at(self, temperature: float) -> Self:
        return replace(self, temperature=temperature)

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        z = (logits / self.temperature).nan_to_num(neginf=-1e9)
        ranked = z.sort(dim=-1, descending=True).values
        sums = ranked.cumsum(-1) - 1
        count = torch.arange(1, z.shape[-1] + 1)
        support = (ranked * count > sums).sum(-1, keepdim=True)
        return (z - sums.gather(-1, support - 1) / support).clamp(min=0)


if __name__ == "__main__":
    check_relaxation(Sparsemax())
    extensions = Extensions(relaxations={**RELAXATIONS, "sparsemax": Sparsemax()})
    train(small_config('search.relaxation = "sparsemax"'), extensions, digits())
