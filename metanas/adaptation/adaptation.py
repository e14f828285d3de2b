"""The inner loop: adapt weights and alphas to a support set, prune, and tune the weights.

Notes:
- An `Adaptation` is the state of one task. `advance` takes one step of several tasks in one
  evaluation of the supernet. Each task has its own ways, shots and temperature. The result of a
  task does not depend on the other tasks of its stack.
- The queries of a step are random affine views of the support images. The head of a query leaves
  its image out if the class has another one (`metanas.nn.heads`). So even one shot gives a
  gradient. Every step computes the head anew from the present features.
- Normalisation statistics come from the unaltered support images of the step, as in the exported
  model.
- The temperature falls until the mixture is one-hot. Then the architecture is fixed, and further
  steps tune the weights of the chosen operations.
- Weights and alphas share one backward pass (single level); `bilevel` splits the support set and
  steps them in turn (first order; DARTS, arXiv:1806.09055, section 2.3).
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

from metanas.adaptation.objective import Update, evaluate
from metanas.adaptation.optimizer import Moves, TaskOptimizer
from metanas.adaptation.views import draws
from metanas.checkpoint import Checkpoint
from metanas.errors import Diverged
from metanas.images.batches import batches_of, halves
from metanas.images.support_set import SupportSet
from metanas.nn.devices import upload
from metanas.nn.heads import HEADS
from metanas.nn.prototypes import membership
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.progress import Progress
from metanas.supernet.discrete import DiscreteNetwork, freeze_statistics, from_supernet
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import annealed
from metanas.supernet.supernet import genotype_of
from metanas.util.work import Parts

CONVERGED, CONVERGED_NATS = 0.01, 1e-3
"""Largest relative and absolute change of a mean loss that has converged."""


class Stage(StrEnum):
    """Stage of an adaptation."""

    ADAPT = "adapt"
    TUNE = "tune"
    DONE = "done"


class Figures(NamedTuple):
    """Figures of an update, on the host."""

    loss: float
    accuracy: float
    entropy: float
    weight_norm: float
    alpha_norm: float


class Adaptation:
    """The inner loop of one task; `advance` takes its steps.

    The checkpoint is not changed. `stage` is the stage of the next step. `genotype` and `soft`, the
    supernet's parameters at the end of the search, exist from the stage TUNE on.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: SupportSet,
        config: AdaptConfig,
        generator: torch.Generator,
    ) -> None:
        self.checkpoint, self.task, self.config = checkpoint, task, config
        self.stage = Stage.ADAPT
        self.taken = {Stage.ADAPT: 0, Stage.TUNE: 0}
        self.genotype: Genotype | None = None
        self.soft: Params = {}
        (self._images,) = upload([task.images], checkpoint.device)
        self._views: Tensor | None = None
        if task.views is not None:
            (self._views,) = upload([task.views], checkpoint.device)
        self.optimizer = self._optimizer(checkpoint.supernet.live(checkpoint.params), config)
        self._skipped = 0
        """Steps of this stage that are not needed."""
        self._generator = generator
        self._batches = batches_of(task.labels, config.batch_size, generator)
        self._losses = list[float]()
        self._genotypes = list[Genotype]()
        self._plan: list[Update] = []
        if config.steps == 0:
            self._decide()

    @property
    def images(self) -> int:
        """Number of support images in a step."""
        return min(len(self.task.images), self.config.batch_size)

    @property
    def steps(self) -> int:
        """Number of steps of this stage without early stopping."""
        return self.config.steps if self.stage is Stage.ADAPT else self.config.tuning_steps

    @property
    def decided(self) -> Genotype:
        """Architecture, from the stage TUNE on.

        Raises:
            ValueError: the search has not ended.
        """
        if self.genotype is None:
            raise ValueError("the search has not ended; take its steps first")
        return self.genotype

    @property
    def saved(self) -> int:
        """Number of steps that early stopping has saved."""
        return self.config.steps + self.config.tuning_steps - sum(self.taken.values())

    def update(self) -> Update:
        """Return the next update; the same one until `learn` is called."""
        if not self._plan:
            rows = next(self._batches)
            if self.stage is Stage.ADAPT and self.config.bilevel:
                rows, held_out = halves(rows, self.task.labels)
                turns = [(held_out, Moves(weights=False)), (rows, Moves(alphas=False))]
            else:
                turns = [(rows, Moves())]
            self._plan = [self._update(*turn) for turn in turns]
        return self._plan[0]

    def learn(self, gradient: Tensor, figures: Figures) -> Progress | None:
        """Apply a gradient `(size,)`; return the progress, or None within a step of two updates.

        Raises:
            Diverged: the loss or the gradient is not finite; nothing has changed.
        """
        if not figures.loss < float("inf"):
            raise Diverged
        update = self._plan[0]
        norms = figures.weight_norm, figures.alpha_norm
        self.optimizer.descend(gradient, norms, update.moves)
        self._plan.pop(0)
        if self._plan:
            return None
        self.taken[self.stage] += 1
        self._losses.append(figures.loss)
        taken, stage = self.taken[self.stage], self.stage.value
        step = Progress(stage, taken, self.steps, figures.loss, figures.accuracy)
        if update.temperature is not None:
            step = replace(step, temperature=update.temperature, entropy=figures.entropy)
        if not self._skipped and self._settled():
            self._skipped = self._needless_steps()
        if self.taken[self.stage] + self._skipped == self.steps:
            self._next_stage()
        return step

    def network(self) -> Parts[tuple[DiscreteNetwork, Tensor]]:
        """Build the pruned network, frozen to the support set; also its features `(N, D)`.

        Both are on the CPU, where the exported network runs.
        """
        card, genotype = self.checkpoint.card, self.decided
        params = {name: value.cpu() for name, value in self.optimizer.snapshot().items()}
        network = from_supernet(card.space, params, genotype, self.checkpoint.ops)
        chunk = max(self.config.batch_size, self.task.ways)
        features = yield from freeze_statistics(network, self.task.images, chunk)
        return network, features

    def _update(self, rows: Tensor, moves: Moves) -> Update:
        return Update(
            self.optimizer,
            self._images,
            self._views,
            rows,
            draws(len(rows), self._views, self._generator),
            membership(self.task.labels[rows], self.task.ways),
            self._temperature(),
            self._generator,
            moves,
        )

    def _temperature(self) -> float | None:
        if self.stage is Stage.TUNE:
            return None
        start, end = self.config.temperature_start, self.config.temperature_end
        return annealed(start, end, self.taken[self.stage] + self._skipped, self.config.steps)

    def _settled(self) -> bool:
        """Check that the loss has converged and, during the search, the architecture too.

        The mean loss of the last `patience` steps is then nearly that of the `patience` steps
        before, and the genotype was the same in all of the last ones.
        """
        patience = self.config.patience
        if patience == 0 or self.steps < 2 * patience:
            return False
        if self.stage is Stage.ADAPT:  # the host waits for the device
            self._genotypes.append(genotype_of(self.checkpoint.supernet, self.optimizer.params))
        if len(self._losses) < 2 * patience:
            return False
        before, after = (
            sum(losses) / patience
            for losses in (self._losses[-2 * patience : -patience], self._losses[-patience:])
        )
        same = abs(after - before) <= max(CONVERGED * before, CONVERGED_NATS)
        return same and len(set(self._genotypes[-patience:])) <= 1

    def _needless_steps(self) -> int:
        """Count the steps that a settled stage can skip.

        Pruning a mixture that is not one-hot costs accuracy. So a search always takes its last
        `patience` steps, in which the temperature falls to its end.
        """
        left = self.steps - self.taken[self.stage]
        return max(0, left - self.config.patience) if self.stage is Stage.ADAPT else left

    def _next_stage(self) -> None:
        if self.stage is Stage.TUNE:
            self.stage = Stage.DONE
        else:
            self._decide()

    def _optimizer(self, params: Params, options: AdaptConfig) -> TaskOptimizer:
        card = self.checkpoint.card
        return TaskOptimizer(params, options, plain=card.task_optimizer == "sgd", rates=card.rates)

    def _decide(self) -> None:
        """Fix the architecture; the weights go on with a fresh state of Adam."""
        self.soft = self.optimizer.snapshot()
        self.genotype = genotype_of(self.checkpoint.supernet, self.soft)
        self.optimizer = self._optimizer(self.soft, replace(self.config, alpha_lr=0.0))
        self._losses, self._genotypes, self._skipped = [], [], 0
        self.stage = Stage.TUNE if self.config.tuning_steps else Stage.DONE


def advance(
    adaptations: Sequence[Adaptation], *, memory: int = 3 * 2**29
) -> list[Progress | Exception | None]:
    """Take one update of several adaptations of one checkpoint and one head together.

    memory: approximate limit on the bytes of activations for the backward pass. Beyond it, the
        backward pass evaluates the edges of the first cells again.

    Returns the outcome of each: its progress, the error that ends it, or None if its step needs
    another update.

    Raises:
        torch.OutOfMemoryError: the stack does not fit into the device; nothing has changed.
    """
    updates = [adaptation.update() for adaptation in adaptations]
    checkpoint, head = adaptations[0].checkpoint, HEADS[adaptations[0].config.head]
    recompute = checkpoint.cells_to_recompute(_images_of(adaptations), memory)
    drawn = [update.generator.get_state() for update in updates]
    try:
        with checkpoint.using:  # the backward pass too: it may evaluate again
            gradients, figures = evaluate(checkpoint, updates, head=head, recompute=recompute)
    except Exception:
        for update, state in zip(updates, drawn, strict=True):
            update.generator.set_state(state)
        raise
    rows = figures.tolist()  # the host waits once for all figures
    outcomes = list[Progress | Exception | None]()
    for adaptation, gradient, row in zip(adaptations, gradients, rows, strict=True):
        try:
            outcomes.append(adaptation.learn(gradient, Figures(*row)))
        except Diverged as error:  # a traceback would keep the tensors of this step alive
            outcomes.append(error.with_traceback(None))
        except Exception as error:
            outcomes.append(error)
    return outcomes


def footprint(adaptations: Sequence[Adaptation]) -> int:
    """Estimate the bytes of activations that a step of these keeps for its backward pass."""
    return _images_of(adaptations) * sum(adaptations[0].checkpoint.activation_bytes)


def _images_of(adaptations: Sequence[Adaptation]) -> int:
    """Count the images and views in a step of these, padding included."""
    return 2 * len(adaptations) * max(each.images for each in adaptations)
