"""The ridge head: regularised least squares on class targets, in closed form.

The head of Bertinetto et al. (ICLR 2019, arXiv:1805.08136) with a bias that is not penalised. It
minimises `sum_i w_i |y_i - f(x_i)|^2 + p |W|^2` over `f(x) = W x + b`. The dual form has as many
unknowns as there are images. Its bordered system (Suykens and Vandewalle, Neural Processing Letters
9, 1999)

    [ X X' + p diag(1/w)   1 ] [ a ]   [ Y ]
    [         1'           0 ] [ b ] = [ 0 ]      with W = a' X

also gives every prediction of a head that was fitted without image i, from the same inverse P
(Cawley, IJCNN 2006): `a` and `b` change by `-P[:, i] a_i / P_ii`. Without a set S of images, the
residuals of S are `inv(P_SS) a_S`. All are exact, bias included.

Targets are 1 for an image's class and -1/(ways - 1) for the others. Each class weighs the same, so
images of a large class weigh less. The penalty p is a multiple of the mean squared distance of the
images from their centre: it means the same for features of any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Relative penalties from which the leave-one-out error chooses."""
LONE_PENALTY = 0.2
"""Relative penalty where it is not chosen: in gradient steps, and where no class has two images."""
MOST_IMAGES = 1000
"""Most images that choose a penalty: each trial costs the cube of their number."""
TINY = 1e-12


@dataclass(frozen=True)
class RidgeFit:
    """A solved system; the first dimensions are those of a stack of tasks."""

    support: Tensor
    """Features `(..., N, D)`, centred."""
    centre: Tensor
    """Their weighted mean, `(..., 1, D)`."""
    inverse: Tensor
    """Inverse of the bordered system, `(..., N + 1, N + 1)`."""
    solution: Tensor
    """`a` and, in the last row, `b`: `(..., N + 1, ways)`."""

    def linear(self) -> tuple[Tensor, Tensor]:
        """Return weight `(..., ways, D)` and bias `(..., ways)`."""
        weight = self.solution[..., :-1, :].mT @ self.support
        bias = self.solution[..., -1, :] - (weight @ self.centre.mT).squeeze(-1)
        return weight, bias

    def held_out(self, queries: Tensor) -> Tensor:
        """Predict targets `(..., N, ways)` of queries `(..., N, D)`, query i without image i."""
        product = (queries - self.centre) @ self.support.mT
        kernel = torch.cat([product, torch.ones_like(product[..., :1])], dim=-1)
        diagonal = self.inverse.diagonal(dim1=-2, dim2=-1)[..., :-1, None]
        change = self.solution[..., :-1, :] / diagonal
        columns = self.inverse.mT[..., :-1, :]
        return kernel @ self.solution - (kernel * columns).sum(-1, keepdim=True) * change

    def residuals(self, sets: Tensor) -> Tensor:
        """Compute targets less predictions `(T, s, ways)` of one task's images in sets `(T, s)`.

        The head that predicts a set was fitted without it.
        """
        block = self.inverse[sets[:, :, None], sets[:, None, :]]
        solution: Tensor = torch.linalg.solve(block, self.solution[sets])
        return solution


@dataclass(frozen=True)
class RidgeHead:
    """The ridge head.

    The linear layer of a finished model has the penalty with the smallest leave-one-out error.
    Gradient steps and meta-training take `LONE_PENALTY`.
    """

    def linear(self, support: Tensor, members: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Write the head of one task as a linear layer: weight `(ways, D)` and bias `(ways,)`.

        Whole images alone choose the penalty: views of an image would answer for it.
        """
        whole = members.amax(-1) >= 1
        penalty = choose_penalty(support[whole], members[whole])
        return _scaled(fit(support, members, penalty), members, scale)

    def logits(self, support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Compute logits `(..., Q, ways)` of queries `(..., Q, D)`."""
        weight, bias = _scaled(fit(support, members, LONE_PENALTY), members, scale)
        return queries @ weight.mT + bias[..., None, :]

    def held_out(self, support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Compute logits `(..., N, ways)` of queries, query i by a head without image i.

        An image that is alone in its class stays: without it the class has no image.
        """
        solved = fit(support, members, LONE_PENALTY)
        weight, bias = solved.linear()
        fitted = queries @ weight.mT + bias[..., None, :]
        targets = torch.where(_has_other(members)[..., None], solved.held_out(queries), fitted)
        empty = (members.sum(-2) == 0)[..., None, :]
        return (targets * scale[..., None, None]).masked_fill(empty, -torch.inf)

    def without(
        self, support: Tensor, members: Tensor, sets: Sequence[Tensor], scale: Tensor
    ) -> list[Tensor]:
        """Compute logits `(T, s, ways)` of the images of each set, by heads without that set.

        The penalty is chosen as in the linear layer, once for all sets.
        """
        solved = fit(support, members, choose_penalty(support, members))
        targets, _ = _targets(members)
        return [scale * (targets[rows] - solved.residuals(rows)) for rows in sets]


def fit(support: Tensor, members: Tensor, penalty: float) -> RidgeFit:
    """Solve for features `(..., N, D)` and members `(..., N, ways)` with a relative penalty."""
    targets, weights = _targets(members)
    shares = (weights / weights.sum(-1, keepdim=True))[..., None]
    centre = (shares * support).sum(-2, keepdim=True)
    present = (weights > 0).to(support.dtype)
    border = present[..., None].expand_as(support[..., :1])
    centred = (support - centre) * border
    spread = (shares * centred.square().sum(-1, keepdim=True)).sum((-2, -1))
    diagonal = (penalty * spread.clamp(min=TINY))[..., None] / weights.clamp(min=TINY)
    kernel = centred @ centred.mT + torch.diag_embed(torch.where(present > 0, diagonal, 1.0))
    corner = torch.zeros_like(kernel[..., :1, :1])
    system = torch.cat(
        [torch.cat([kernel, border], dim=-1), torch.cat([border.mT, corner], dim=-1)], dim=-2
    )
    inverse = torch.linalg.inv(system)
    return RidgeFit(centred, centre, inverse, inverse[..., :-1] @ (targets * border))


def choose_penalty(support: Tensor, members: Tensor) -> float:
    """Choose the relative penalty with the smallest leave-one-out error of one task.

    The error is the weighted mean of squared errors over images whose class has another one. Of a
    larger support set `MOST_IMAGES` take part, evenly spaced.
    """
    count = len(support)
    rows = torch.linspace(0, count - 1, min(count, MOST_IMAGES), dtype=torch.float64).round().long()
    support, members = support[rows], members[rows]
    counted = _has_other(members)
    if not bool(counted.any()):
        return LONE_PENALTY
    targets, weights = _targets(members)
    weights = weights * counted

    def error(penalty: float) -> float:
        residual = fit(support, members, penalty).held_out(support) - targets
        return float((weights * residual.square().sum(-1)).sum())

    return min(PENALTIES, key=error)


def _scaled(solved: RidgeFit, members: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Scale a solution to logits; a class without images gets a bias of minus infinity."""
    weight, bias = solved.linear()
    empty = members.sum(-2) == 0
    scaled = (scale[..., None] * bias).masked_fill(empty, -torch.inf)
    return scale[..., None, None] * weight, scaled


def _has_other(members: Tensor) -> Tensor:
    """Mark each image whose class has another one, `(..., N)`."""
    inside = (members > 0).to(members.dtype)
    return (inside @ inside.sum(-2)[..., None]).squeeze(-1) > 1


def _targets(members: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets `(..., N, ways)` and weights `(..., N)`; images weigh 1 in the mean."""
    counts = members.sum(-2, keepdim=True)
    ways = (counts > 0).sum(-1, keepdim=True)
    weights = (members / counts.clamp(min=TINY)).sum(-1)
    present = (weights > 0).sum(-1, keepdim=True)
    weights = weights * present / weights.sum(-1, keepdim=True)
    inside = (members > 0).to(members.dtype)
    return (ways * inside - 1) / (ways - 1), weights
