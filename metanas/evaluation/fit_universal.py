"""Fit and validate the prior of the universal search space, on episodes of several data sets.

The shares of the branches in an episode are a softmax of a linear function of the description of
its support set. The function minimises the cross entropy of the queries under the ridge head, with
a price on multiply-accumulates: the conditional form of a meta-architecture. Weights of networks do
not change.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.adaptation.metrics import macs_of, meta_model, weights_of_network
from metanas.adaptation.universal import UniversalSpace, branches_of
from metanas.checkpoint import Checkpoint
from metanas.evaluation.branch_episodes import (
    NO_QUERY,
    WAYS,
    Episodes,
    draw_episodes,
    read_images,
)
from metanas.nn.heads import HEADS
from metanas.nn.prototypes import membership
from metanas.spec.universal import Costs, Universal, macs_of_branches

ITERATIONS, RATE = 150, 0.05
"""Steps of Adam, and the step size of the first one; it falls to zero by a cosine."""
BATCH = 12
"""Episodes of a data set and number of shots in a step."""
DECAY = 5e-3
"""Weight of the squared weights in the loss."""
UNIT = 3.65e8
"""Multiply-accumulates that cost the price."""
NO_SHARE = -50.0
"""Logit of a branch without shares of its own."""


class Fit(NamedTuple):
    """A linear function from descriptions to logits of shares, and the scale of class logits."""

    weights: Tensor
    bias: Tensor
    scale: float

    def shares(self, descriptions: Tensor) -> Tensor:
        """Compute shares `(..., B)` of descriptions `(..., DESCRIPTION)`."""
        return torch.softmax(descriptions @ self.weights.T + self.bias, dim=-1)


class Figures(NamedTuple):
    """Mean accuracy, 0 to 1, and mean multiply-accumulates of episodes."""

    accuracy: float
    macs: float

    @staticmethod
    def mean(figures: "Sequence[Figures]") -> "Figures":
        """Return the mean of both."""
        return Figures(*(sum(each) / len(each) for each in zip(*figures, strict=True)))


class Validation(NamedTuple):
    """Figures on a data set and number of shots, of shares that were fitted on other classes."""

    data: str
    shots: int
    branches: list[Figures]
    """Each branch alone."""
    single: Figures
    """The best shares for all tasks alike."""
    by_task: Figures
    """Shares by the support set."""
    other: Figures
    """Shares of tasks of the next data set."""
    left_out: Figures
    """Shares by the support set, fitted on other data sets."""


def fit_universal(
    space: UniversalSpace,
    paths: Sequence[Path],
    episodes: int,
    on_data: Callable[[Path], None] = lambda path: None,
    *,
    conditional: bool = True,
) -> tuple[Fit, list[Validation]]:
    """Fit the prior on the val classes of data sets, or on all where there is no such split.

    On train classes a network that was trained on them would look better than it is. For the
    validation a prior is fitted on each half of the classes.

    Args:
        space: branches, whose prior does not matter.
        paths: data sets.
        episodes: number of each half of the classes and number of shots.
        on_data: called before each data set is read.
        conditional: False gives all tasks the same shares, the control.

    Raises:
        DatasetError: a data set cannot be used.
    """
    halves: tuple[list[list[Episodes]], list[list[Episodes]]] = ([], [])
    for path in paths:
        on_data(path)
        images = read_images(path)
        for half, drawn in enumerate(halves):
            some = {name: images[name] for name in list(images)[half::2]}
            drawn.append(draw_episodes(space.branches, some, episodes))
    costs, own = prices_of(space.universal), own_of(space.universal)
    every, price = _flat(halves[0] + halves[1]), space.universal.config.price
    fitted = fit(every, costs, price, conditional=conditional, own=own)
    return fitted, _validate(space.universal, paths, halves)


@torch.no_grad()
def costs_of(checkpoint: Checkpoint) -> Costs:
    """Count the costs of a branch, whose network is that of the meta-architecture."""
    model, task = meta_model(checkpoint)
    network, trunk = model.encoders[0].network, model.encoders[0].trunk
    costs = Costs(macs=macs_of(network, task.images), parameters=weights_of_network(network))
    if trunk is None:
        return costs
    return replace(
        costs,
        trunk_macs=macs_of(trunk, torch.zeros(1, 3, model.size, model.size)),
        trunk_parameters=sum(value.numel() for value in trunk.parameters()),
    )


def prices_of(universal: Universal) -> Tensor:
    """Return the price of each branch, trunk included, in units of `UNIT`."""
    return torch.tensor([macs_of_branches(universal, [name]) / UNIT for name in universal.branches])


def own_of(universal: Universal) -> Tensor:
    """Mark the branches that have shares of their own."""
    return torch.tensor([not branch.beside for branch in universal.branches.values()])


def fit(
    episodes: Sequence[Episodes],
    costs: Tensor,
    price: float,
    *,
    conditional: bool = True,
    own: Tensor | None = None,
) -> Fit:
    """Fit shares by descriptions, or with `conditional` False the same shares for all tasks.

    own: marks of the branches that have shares; by default all.
    """
    every = torch.cat([each.descriptions.flatten(0, 1) for each in episodes])
    centre, spread = every.mean(0), every.std(0).clamp(min=1e-3)
    weights = torch.zeros(len(costs), len(centre), requires_grad=conditional)
    bias = torch.zeros(len(costs), requires_grad=True)
    offset = torch.zeros(len(costs)) if own is None else torch.where(own, 0.0, NO_SHARE)
    scales = torch.full((len({each.shots for each in episodes}),), 1.5, requires_grad=True)
    of_shots = {shots: at for at, shots in enumerate(sorted({each.shots for each in episodes}))}
    optimizer = torch.optim.Adam(
        [each for each in (weights, bias, scales) if each.requires_grad], lr=RATE
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(ITERATIONS):
        loss = DECAY * weights.square().sum()
        for each in episodes:
            rows = torch.randperm(len(each.features), generator=generator)[:BATCH]
            view = torch.randint(each.descriptions.shape[1], (len(rows),), generator=generator)
            described = (each.descriptions[rows, view] - centre) / spread
            shares = torch.softmax(described @ weights.T + bias + offset, dim=-1)
            logits = _logits(each, rows, shares, scales[of_shots[each.shots]].exp())
            queries = each.queries[rows].flatten()
            entropy = F.cross_entropy(logits.flatten(0, 1), queries, ignore_index=NO_QUERY)
            loss = loss + (entropy + price * (shares @ costs).mean()) / len(episodes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    scaled = weights.detach() / spread
    return Fit(
        scaled, bias.detach() + offset - scaled @ centre, float(scales.detach().mean().exp())
    )


def _joined(episodes: Episodes, rows: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return joined features of the support images `(E, N, D)` and of the queries."""
    roots = shares.clamp(min=1e-9).sqrt()[:, None, :, None]
    joined = (episodes.features[rows] * roots).flatten(2)
    count = len(episodes.support)
    return joined[:, :count], joined[:, count:]


def _logits(episodes: Episodes, rows: Tensor, shares: Tensor, scale: Tensor) -> Tensor:
    """Compute logits `(E, Q, ways)` by the ridge head."""
    support, queries = _joined(episodes, rows, shares)
    members = membership(episodes.support, WAYS).expand(len(rows), -1, -1)
    return HEADS["ridge"].logits(support, members, queries, scale.expand(len(rows)))


@torch.no_grad()
def _figures(universal: Universal, episodes: Episodes, shares: Tensor) -> Figures:
    """Measure models with these shares `(E, B)`, pruned as in an adaptation."""
    members, one = membership(episodes.support, WAYS), torch.tensor(1.0)
    accuracies, macs = list[float](), list[int]()
    for row, each in enumerate(shares.tolist()):
        kept = branches_of(universal, dict(zip(universal.branches, each, strict=True)))
        final = torch.tensor([[kept.get(name, 0.0) for name in universal.branches]])
        support, queries = _joined(episodes, torch.tensor([row]), final)
        weight, bias = HEADS["ridge"].linear(support[0], members, one)
        real = episodes.queries[row] != NO_QUERY
        answers = (queries[0] @ weight.T + bias).argmax(1)
        accuracies.append(float((answers == episodes.queries[row])[real].float().mean()))
        macs.append(macs_of_branches(universal, kept))
    return Figures(sum(accuracies) / len(accuracies), sum(macs) / len(macs))


def _flat(half: Sequence[Sequence[Episodes]]) -> list[Episodes]:
    return [each for of_data in half for each in of_data]


def _validate(
    universal: Universal,
    paths: Sequence[Path],
    halves: tuple[list[list[Episodes]], list[list[Episodes]]],
) -> list[Validation]:
    price = universal.config.price
    costs, rows = prices_of(universal), list[Validation]()
    fitted = partial(fit, costs=costs, price=price, own=own_of(universal))
    single = [fitted(_flat(half), conditional=False) for half in reversed(halves)]
    by_task = [fitted(_flat(half)) for half in reversed(halves)]
    for index, path in enumerate(paths):
        rest = [each for half in halves for each in half[:index] + half[index + 1 :]]
        left_out = fitted(_flat(rest or halves[0]))
        following = (index + 1) % len(paths)
        for at in range(len(halves[0][index])):
            figures = list[list[Figures]]()
            for half, one, some in zip(halves, single, by_task, strict=True):
                episodes, swapped = half[index][at], half[following][at]
                first, other = (each.descriptions[:, 0] for each in (episodes, swapped))
                alone = torch.eye(len(costs)).unsqueeze(1).expand(-1, len(first), -1)
                shares = [*alone, one.shares(first), some.shares(first)]
                shares += [some.shares(other), left_out.shares(first)]
                figures.append([_figures(universal, episodes, each) for each in shares])
            means = [Figures.mean(pair) for pair in zip(*figures, strict=True)]
            count = len(costs)
            shots = halves[0][index][at].shots
            rows.append(Validation(path.stem, shots, means[:count], *means[count:]))
    return rows
