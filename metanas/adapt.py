"""The inner loop: adapt weights and alphas to a support set, prune, and let the weights settle.

Notable:
- Every support image is queried through a random affine view of itself, against prototypes that
  leave the image out where its class has another (`metanas.head`). So even one shot gives a
  gradient, and the head follows the features instead of lagging behind them.
- Normalisation statistics come from the unaltered support images of the step, as in the model that
  leaves.
- The temperature falls to one at which the mixture is one-hot; after pruning, the weights train on.
- Weights and alphas share one backward pass (single level); `bilevel` splits the support set and
  steps them in turn (first order; DARTS, arXiv:1806.09055, section 2.3).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanas.augment import affine_views
from metanas.checkpoint import Checkpoint
from metanas.errors import Cancelled, Diverged
from metanas.head import held_out_logits
from metanas.network import DiscreteNetwork, freeze_statistics
from metanas.optimizer import Params, TaskOptimizer, TaskOptimizerConfig
from metanas.options import AdaptConfig, AffineRange
from metanas.relax import Softmax, annealed
from metanas.support import SupportSet

SHARE_THRESHOLD = 0.02
"""Candidates with at most this share of their node are not evaluated in a step."""


@dataclass(frozen=True)
class Step:
    """What one task-optimizer step saw."""

    step: int
    loss: float
    accuracy: float
    """Of the views, against prototypes without their images, 0 to 1."""
    temperature: float = nan
    entropy: float = nan
    """Mean entropy of the mixture over an edge's candidates, in nats; 0 is decided."""


OnStep = Callable[[Step], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Control:
    """How the caller watches the loop and stops it between two steps."""

    on_step: OnStep
    should_stop: ShouldStop

    def check(self) -> None:
        """Raise `Cancelled` if the caller asked to stop."""
        if self.should_stop():
            raise Cancelled


def adapt(
    checkpoint: Checkpoint,
    task: SupportSet,
    config: AdaptConfig,
    generator: torch.Generator,
    control: Control,
) -> Params:
    """Adapt the supernet's weights and alphas to the task; the checkpoint stays as it is.

    Raises:
        Cancelled: `control.should_stop` said so.
        Diverged: the loss became NaN or infinite.
    """
    optimizer = TaskOptimizer(checkpoint.params, _optimizer_config(config, config.alpha_lr))
    objective = _Objective(task, checkpoint.card.augment, config.batch_size, generator)
    supernet = checkpoint.supernet
    for step in range(config.steps):
        control.check()
        temperature = annealed(config.temperature_start, config.temperature_end, step, config.steps)
        relaxation = Softmax(temperature=temperature)
        rows = objective.next_rows()
        if config.bilevel:
            rows, held_out = _halves(rows, task.labels)
            loss, _ = objective(supernet, optimizer.params, held_out, relaxation, SHARE_THRESHOLD)
            optimizer.step(loss, weights=False)
        loss, accuracy = objective(supernet, optimizer.params, rows, relaxation, SHARE_THRESHOLD)
        optimizer.step(loss, alphas=not config.bilevel)
        entropy = supernet.entropy(optimizer.params, relaxation)
        control.on_step(Step(step + 1, loss.item(), accuracy, temperature, entropy))
    return optimizer.snapshot()


def tune(
    network: DiscreteNetwork,
    checkpoint: Checkpoint,
    task: SupportSet,
    config: AdaptConfig,
    generator: torch.Generator,
    control: Control,
) -> None:
    """Train the pruned network's weights on, then freeze its statistics to the support set's."""
    optimizer = TaskOptimizer(dict(network.named_parameters()), _optimizer_config(config, 0.0))
    objective = _Objective(task, checkpoint.card.augment, config.batch_size, generator)
    for step in range(config.tuning_steps):
        control.check()
        loss, accuracy = objective(network, optimizer.params, objective.next_rows())
        optimizer.step(loss)
        control.on_step(Step(step + 1, loss.item(), accuracy))
    network.load_state_dict(optimizer.snapshot())
    control.check()
    freeze_statistics(network, task.images, max(config.batch_size, task.ways))


class _Objective:
    """The loss of a task: mini-batches, and a random view of every image as its query."""

    def __init__(
        self, task: SupportSet, augment: AffineRange, size: int, generator: torch.Generator
    ) -> None:
        self._task, self._augment, self._generator = task, augment, generator
        self._batches = batches_of(task.labels, size, generator)

    def next_rows(self) -> Tensor:
        """Indices of the next mini-batch."""
        return next(self._batches)

    def __call__(
        self, network: nn.Module, params: Params, rows: Tensor, *mixture: object
    ) -> tuple[Tensor, float]:
        """Cross entropy of views of the batch against its held-out prototypes; their accuracy.

        `mixture` is what the network wants to know beside the images and the length of the support.
        """
        clean = self._task.images[rows]
        # a mini-batch need not hold every class: its own classes are its ways
        present, labels = self._task.labels[rows].unique(return_inverse=True)
        x = torch.cat([clean, affine_views(clean, self._augment, self._generator)])
        arguments = (x, len(rows), *mixture)
        out: Tensor = functional_call(network, params, arguments, tie_weights=False)
        scale = params["head.log_scale"].exp()
        logits = held_out_logits(out[: len(rows)], labels, len(present), out[len(rows) :], scale)
        loss = F.cross_entropy(logits, labels)
        if not bool(torch.isfinite(loss)):
            raise Diverged
        return loss, float((logits.argmax(1) == labels).float().mean())


def batches_of(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless mini-batches of row indices, at most `size` long, classes as even as they can be.

    A support set that fits into one batch is always taken whole and in order.
    """
    everything = torch.arange(len(labels))
    while True:
        if len(labels) <= size:
            yield everything
            continue
        shuffled = torch.randperm(len(labels), generator=generator)
        # the k-th image of every class before the (k+1)-th of any: each chunk is nearly balanced
        rank = (labels[shuffled][:, None] == labels[shuffled][None, :]).tril().sum(1)
        yield from shuffled[rank.argsort(stable=True)].split(size)


def _halves(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Alternate a batch's images, class by class; a class with a single image is in both halves."""
    own = labels[rows]
    rank = (own[:, None] == own[None, :]).tril(-1).sum(1)
    single = (own[:, None] == own[None, :]).sum(1) == 1
    return rows[single | (rank % 2 == 0)], rows[single | (rank % 2 == 1)]


def _optimizer_config(config: AdaptConfig, alpha_lr: float) -> TaskOptimizerConfig:
    return TaskOptimizerConfig(
        weight_lr=config.weight_lr, alpha_lr=alpha_lr, gradient_clip=config.gradient_clip
    )
