"""The tasks of a meta-iteration: draw them, stack them, and run the meta-learner.

`MetaBatch` is a function of the run's state and a range of tasks, without side effects. Results of
several ranges can be added, so several processes or machines can each run a part of the range.

Notes:
- Everything random about an episode (classes, images, views, noise on the alphas) comes from
  generators seeded by (seed, iteration, task, episode) alone. Ways and shots come from (seed,
  iteration, episode). So results do not depend on the number of workers, and a resumed run needs no
  generator's state.
- All tasks of an iteration have the same ways and shots. So a stack has no padding.
- The loss of a step is that of an episode: fresh support images and queries of the task's classes,
  normalised by the support images alone, as in the use of an adapted network. All turns of
  `task.round_robin` share the statistics of the first one, in one forward pass.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metanas.errors import Diverged
from metanas.nn.devices import use_float32
from metanas.nn.functional import Rows
from metanas.nn.heads import HEADS, logits_in_turn
from metanas.nn.ops import OPS, Op
from metanas.nn.partial_channels import candidates
from metanas.spec.genotype import CELL_KINDS
from metanas.supernet.adam import Moments
from metanas.supernet.cell import DropPath
from metanas.supernet.flat_params import Layout
from metanas.supernet.relaxations import RELAXATIONS, Noisy, PerTask, Relaxation, annealed
from metanas.supernet.supernet import Supernet
from metanas.training.config import RunConfig
from metanas.training.dataset import network_views
from metanas.training.inner_loop import InnerLoop, Order
from metanas.training.meta_learners import META_LEARNERS, MetaLearner
from metanas.training.schedule import search_at, searching
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features, domains_of, draw_classes, sample_task


@dataclass(frozen=True, kw_only=True)
class MetaState:
    """The state that the tasks of an iteration start from."""

    iteration: int
    params: Tensor
    """The meta-parameters as one vector (`metanas.supernet.flat_params`)."""
    factors: Tensor
    """Logarithms of the learned factors on the rates, one a parameter."""
    moments: Moments
    """State of the task optimizer."""
    alive: Mapping[str, Tensor]
    """Mask of the candidate operations for each kind of cell, `(edges, ops)`."""


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """Sums over the results of some tasks; those of several parts can be added."""

    tasks: int
    loss: float
    accuracy: float
    gradient: Tensor
    """Meta-gradient, `(size,)`."""
    factors: Tensor
    """Gradient of the learned factors, `(parameters,)`."""
    moments: Moments
    """State of the task optimizer; `steps` is not a sum, but the same for all tasks."""

    def __add__(self, other: "TaskResults") -> "TaskResults":
        names = [each.name for each in fields(self)]
        return TaskResults(**{name: getattr(self, name) + getattr(other, name) for name in names})


def generators(*path: int) -> tuple[np.random.Generator, torch.Generator]:
    """Make two generators that depend on these numbers alone; the first number is a seed."""
    sequence = np.random.SeedSequence(path[0], spawn_key=path[1:])
    (seed,) = sequence.generate_state(1, np.uint64)
    return np.random.default_rng(sequence), torch.Generator().manual_seed(int(seed >> 1))


def ways_of(config: RunConfig, iteration: int) -> int:
    """Draw the ways of all tasks of an iteration."""
    low, high = config.task.ways
    return int(generators(config.train.seed, iteration)[0].integers(low, high + 1))


class MetaBatch:
    """Inner loops of tasks drawn from the classes of a data set.

    Raises:
        UnknownName: `ops` lacks an operation of the search space.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Classes | Features,
        *,
        meta_learner: MetaLearner = META_LEARNERS["reptile"],
        relaxation: Relaxation = RELAXATIONS["darts"],
        ops: Mapping[str, Op] = OPS,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self._train, self._meta_learner = config, train, meta_learner
        self._relaxation, self._domains = (
            relaxation,
            domains_of(train, several=bool(config.data.more)),
        )
        self._fewest = min(map(len, train.values()))
        use_float32(device)
        self._device = torch.device(device)
        supernet = Supernet(config.space, candidates(config.space, ops))
        self.layout = Layout(dict(supernet.named_parameters()))
        self._supernet = supernet.requires_grad_(False).to(self._device)

    def __call__(self, state: MetaState, tasks: range) -> TaskResults:
        """Run these tasks of the state's iteration.

        Raises:
            Diverged: a loss or a gradient is not finite.
        """
        for kind in CELL_KINDS:
            self._supernet.cell_alpha(kind).alive.copy_(state.alive[kind])
        size = self.config.train.stack or len(tasks)
        parts = [tasks[first : first + size] for first in range(0, len(tasks), size)]
        return total(self._stack(state, part) for part in parts)

    def _stack(self, state: MetaState, tasks: range) -> TaskResults:
        episodes = _Episodes(self, state.iteration, tasks)
        learned = self._meta_learner.learn(self._loop(state, len(tasks), episodes))
        losses, accuracies = episodes.means()
        gradient, factors = learned.gradient.sum(0), learned.factors.sum(0)
        if not bool(torch.isfinite(gradient.sum() + factors.sum() + losses.sum())):
            raise Diverged("a loss or gradient became infinite or NaN; lower the learning rates")
        moments = learned.moments
        return TaskResults(
            tasks=len(tasks),
            loss=float(losses.sum()),
            accuracy=float(accuracies.sum()),
            gradient=gradient.cpu(),
            factors=factors.cpu(),
            moments=Moments(
                first=moments.first.expand(len(tasks), -1).sum(0).cpu(),
                second=moments.second.expand(len(tasks), -1).sum(0).cpu(),
                steps=moments.steps.cpu(),
            ),
        )

    def episode(self, iteration: int, tasks: range, number: int) -> "_Stacked":
        """Draw the episode of this number of each of these tasks."""
        config, seed = self.config, self.config.train.seed
        ways, shots, queries = self._shape(iteration, number)
        names = list(self._train)
        images = []
        for task in tasks:
            of_task = generators(seed, iteration, task)[0]
            chosen = draw_classes(self._domains, ways, config.task.groups, of_task)
            random, views = generators(seed, iteration, task, number)
            classes: dict[str, NDArray[Any]] = {names[i]: self._train[names[i]] for i in chosen}
            episode = sample_task(
                classes, ways=ways, shots=shots, queries=queries, random=random, repeat=True
            )
            images.append(network_views(episode, config, views))
        return _Stacked(
            iteration,
            tasks,
            number,
            torch.cat(images).to(self._device),
            ways,
            shots,
        )

    def evaluate(self, episode: "_Stacked", theta: Tensor) -> tuple[Tensor, Tensor]:
        """Compute loss and accuracy `(tasks,)` of the queries at parameters `(tasks, size)`."""
        tasks, count = len(episode.tasks), episode.ways * episode.shots
        params = self.layout.views(theta if tasks > 1 else theta[0])
        rows = Rows(count, tasks)
        noise = [
            generators(self.config.train.seed, episode.iteration, task, episode.number, 1)[1]
            for task in episode.tasks
        ]
        relaxation = PerTask((self._relaxation_of(episode),) * tasks, tuple(noise))
        threshold, rate = self.config.search.share_threshold, self.config.train.drop_path
        out: Tensor = functional_call(
            self._supernet,
            params,
            (episode.images, rows, relaxation, threshold),
            {"drop": DropPath(rate, tuple(noise)) if rate else None},
            tie_weights=False,
        )
        parts = out.unflatten(0, (tasks, -1)).tensor_split([count], dim=1)
        classes = torch.cat([part.unflatten(1, (episode.ways, -1)) for part in parts], dim=2)
        scale = params["head.log_scale"].exp().reshape(tasks)
        most = 0 if self.config.task.round_robin else 1
        head = HEADS[self.config.adapt.head]
        logits, queries = logits_in_turn(head, classes, episode.shots, scale, most)
        ways = torch.arange(episode.ways, device=logits.device)
        labels = ways.repeat_interleave(classes.shape[2]).expand(logits.shape[:-1])
        share = queries / queries.sum()
        losses = F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none") * share
        right = (logits.detach().argmax(-1) == labels) * share
        return losses.sum((1, 2)), right.sum((1, 2))

    def _shape(self, iteration: int, number: int) -> tuple[int, int, int]:
        """Draw the ways of an iteration, and shots and queries of an episode."""
        task, seed = self.config.task, self.config.train.seed
        ways = ways_of(self.config, iteration)
        images = task.images // ways
        if task.round_robin:  # an image that is there twice would be support and query
            images = min(images, self._fewest)
        fitting = [s for s in task.shots if 2 * s <= images] or [min(task.shots)]
        first = 2**32 - 1  # no task has this number
        shots = int(generators(seed, iteration, first, number)[0].choice(fitting))
        return ways, shots, max(1, images - shots)

    def _relaxation_of(self, episode: "_Stacked") -> Relaxation:
        """Return the relaxation of an episode, at the temperature of its step."""
        config, steps = self.config, self.config.task.steps
        search = search_at(config, episode.iteration)
        if not searching(config, episode.iteration):
            return self._relaxation.at(search.temperature_start)
        number = episode.number - steps - 1 if episode.number > steps else episode.number
        temperature = annealed(search.temperature_start, search.temperature_end, number, steps)
        relaxation = self._relaxation.at(temperature)
        return Noisy(relaxation, search.noise) if search.noise else relaxation

    def _loop(self, state: MetaState, tasks: int, episodes: "_Episodes") -> InnerLoop:
        config, search, device = self.config.train, self.config.search, self._device
        rates = torch.full_like(state.params, config.weight_lr)
        _, of_alphas = self.layout.split(rates)
        of_alphas.fill_(search.alpha_lr if searching(self.config, state.iteration) else 0.0)
        return InnerLoop(
            tasks=tasks,
            steps=self.config.task.steps,
            layout=self.layout,
            start=state.params.to(device),
            rates=rates.to(device),
            factors=state.factors.to(device),
            loss=episodes.loss,
            order=Order(search.order),
            alpha_decay=search.alpha_decay,
            clip=config.gradient_clip,
            beta1=config.beta1,
            moments=state.moments.to(device),
        )


@dataclass(frozen=True)
class _Stacked:
    """One episode of each task of a stack."""

    iteration: int
    tasks: range
    number: int
    images: Tensor
    """Task after task, support set first, both class after class, `(R, C, S, S)`."""
    ways: int
    shots: int


class _Episodes:
    """The episodes of a stack of tasks, by number; each is drawn at its first use."""

    def __init__(self, batch: "MetaBatch", iteration: int, tasks: range) -> None:
        self._batch, self._iteration, self._tasks = batch, iteration, tasks
        self._episodes: dict[int, _Stacked] = {}
        self._results: dict[int, tuple[Tensor, Tensor]] = {}

    def loss(self, theta: Tensor, number: int) -> Tensor:
        """Compute the loss `(tasks,)` of an episode's queries at parameters `(tasks, size)`."""
        if number not in self._episodes:
            self._episodes[number] = self._batch.episode(self._iteration, self._tasks, number)
        losses, accuracies = self._batch.evaluate(self._episodes[number], theta)
        self._results.setdefault(number, (losses.detach(), accuracies))
        return losses

    def means(self) -> tuple[Tensor, Tensor]:
        """Average loss and accuracy `(tasks,)` over all episodes, each at its first evaluation."""
        losses, accuracies = zip(*self._results.values(), strict=True)
        return torch.stack(losses).mean(0), torch.stack(accuracies).mean(0)


def total(results: Iterable[TaskResults]) -> TaskResults:
    """Add the results of all parts of a range."""
    return reduce(add, results)
