"""Meta-training: the outer loop over tasks.

One meta-iteration: every task starts from the meta-parameters and takes a few task-optimizer steps
on weights and alphas together while the temperature falls from start to end; then the meta-learner
moves the meta-parameters by what the tasks learned (MetaNAS, arXiv:1911.11090, with REPTILE and
DARTS).

Notable:
- The loss of a step is that of a prototype episode: fresh support images and queries of the task's
  classes, normalised by the support images alone. That is how the adapted network will be used.
- Each step's temperature is one that adaptation will pass through, so the weights know both the
  mixture and the discrete network at its end; noise on the alphas shows them the discrete
  network's neighbours too.
- The pruned network is validated beside the soft one from the first validation on. It alone counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metanas.augment import affine_views
from metanas.config import RunConfig, TrainConfig
from metanas.episodes import Classes, Episode, sample_episode
from metanas.errors import DatasetError
from metanas.genotype import CELL_KINDS
from metanas.head import membership, prototype_logits
from metanas.kernels import Rows
from metanas.metalearn import MetaLearner, reptile
from metanas.ops import OPS, Op
from metanas.optimizer import Params, TaskOptimizer, TaskOptimizerConfig
from metanas.relax import Gumbel, Relaxation, Softmax, annealed
from metanas.supernet import ALPHA_PREFIX, Supernet, initialise, is_alpha

VALIDATION_QUERIES = 5
DISCRETE = 1e-4
"""A temperature at which the softmax is the argmax."""


@dataclass(frozen=True)
class Progress:
    """One meta-iteration; accuracies are NaN unless it was validated."""

    iteration: int
    loss: float
    candidates: int
    soft: float
    pruned: float


class MetaTrainer:
    """The state of a run: meta-parameters, task optimizer, generators; `iterate` advances it.

    Raises:
        DatasetError: too few classes, or images of a class, for the tasks that are asked for.
        UnknownName: the search space has an operation that `ops` has not.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Classes,
        val: Classes,
        *,
        ops: Mapping[str, Op] = OPS,
        meta_learner: MetaLearner = reptile,
    ) -> None:
        _check_data("training", train, config.task.ways[0], 2)
        _check_data("validation", val, 2, 1 + VALIDATION_QUERIES)
        self.config = config
        self._train, self._val = train, val
        self._meta_learner = meta_learner
        self.generator = torch.Generator().manual_seed(config.train.seed)
        self.random = np.random.default_rng(config.train.seed)
        self.supernet = Supernet(config.space, ops)
        initialise(self.supernet, self.generator)
        self.meta = {k: v.detach().clone() for k, v in self.supernet.named_parameters()}
        self.supernet.requires_grad_(False)
        self.optimizer = TaskOptimizer(self.meta, _optimizer_config(config.train))
        self.iteration = 0

    def iterate(self) -> Progress:
        """One meta-iteration.

        Raises:
            Diverged: a loss or gradient is not finite; the meta-parameters are those before.
        """
        settings = self.config.train
        searching = self.iteration >= settings.warm_up
        losses, adapted = [], []
        for _ in range(settings.tasks):
            losses += self._task(searching)
            adapted.append(self.optimizer.snapshot())
        rate = 0.5 * (1 + math.cos(math.pi * self.iteration / settings.iterations))
        self._meta_step(self._meta_learner(self.meta, adapted), rate)
        self.iteration += 1
        if 0 < settings.settle <= self.iteration:
            self._settle()
        soft = pruned = math.nan
        last = self.iteration == settings.iterations
        if last or self.iteration % settings.validate_every == 0:
            soft, pruned = self.validate(settings.temperature_end), self.validate(DISCRETE)
        alive = sum(int(self.supernet.cell_alpha(k).alive.sum()) for k in CELL_KINDS)
        return Progress(self.iteration, sum(losses) / len(losses), alive, soft, pruned)

    def _task(self, searching: bool) -> list[float]:
        """Task-optimizer steps on one task, from the meta-parameters; the losses."""
        settings, task = self.config.train, self.config.task
        self.optimizer.load(self.meta)
        names = list(self._train)
        ways = int(self.random.integers(task.ways[0], min(task.ways[1], len(names)) + 1))
        chosen = self.random.choice(len(names), ways, replace=False)
        classes = {names[i]: self._train[names[i]] for i in chosen}
        losses = []
        for step in range(task.steps):
            start, end = settings.temperature_start, settings.temperature_end
            temperature = annealed(start, end, step, task.steps) if searching else start
            noise = settings.noise if searching else 0.0
            loss = self._loss(classes, Gumbel(temperature=temperature, noise=noise))
            self.optimizer.step(loss, alphas=searching)
            losses.append(float(loss.detach()))
        return losses

    def _loss(self, classes: Classes, relaxation: Relaxation) -> Tensor:
        task = self.config.task
        ways = len(classes)
        available = min(len(images) for images in classes.values())
        fitting = [s for s in task.shots if 2 * s * ways <= task.images and s < available] or [1]
        shots = int(self.random.choice(fitting))
        queries = min(available - shots, max(1, task.images // ways - shots))
        episode = sample_episode(
            classes, ways=ways, shots=shots, queries=queries, random=self.random
        )
        x = self.inputs(episode)
        x = affine_views(x, self.config.augment, self.generator)
        threshold = self.config.train.share_threshold
        logits = self._logits(self.optimizer.params, episode, x, relaxation, threshold)
        return F.cross_entropy(logits, torch.from_numpy(episode.query_labels))

    def inputs(self, episode: Episode) -> Tensor:
        """Network input (N, C, S, S) of an episode's images, support first."""
        images = torch.from_numpy(np.concatenate([episode.support, episode.query]))
        spec = self.config.input
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
        return (images.float() / 255 - mean) / std

    def _logits(
        self,
        params: Params,
        episode: Episode,
        x: Tensor,
        relaxation: Relaxation,
        threshold: float,
    ) -> Tensor:
        members = membership(torch.from_numpy(episode.support_labels), len(episode.classes))
        count = len(members)
        arguments = (x, Rows(count), relaxation, threshold, self.generator)
        out: Tensor = functional_call(self.supernet, params, arguments, tie_weights=False)
        scale = params["head.log_scale"].exp()
        return prototype_logits(out[:count], members, out[count:], scale)

    def _meta_step(self, gradient: Params, rate: float) -> None:
        settings = self.config.train
        for name, value in self.meta.items():
            step = settings.meta_lr_alphas if is_alpha(name) else settings.meta_lr_weights
            value.sub_(gradient[name], alpha=rate * step)

    def _settle(self) -> None:
        """Keep the best candidates of every edge, and keep all that remains within reach.

        An alpha may trail its best by a span that a few task-optimizer steps can cross: what
        adaptation is to choose from has to stay a choice, and the noise on the alphas goes on
        training it.
        """
        settings = self.config.train
        for kind in CELL_KINDS:
            alpha = self.supernet.cell_alpha(kind)
            logits = self.meta[f"{ALPHA_PREFIX}{kind}.ops"]
            ranked = logits.masked_fill(~alpha.alive, -torch.inf)
            best = ranked.topk(min(settings.keep, ranked.shape[1]), dim=1).indices
            alpha.alive &= torch.zeros_like(alpha.alive).scatter(1, best, True)
            floor = ranked.max(dim=1, keepdim=True).values - settings.op_span
            torch.maximum(logits, floor, out=logits)
            for pairs in self.meta[f"{ALPHA_PREFIX}{kind}.inputs"].split(alpha.pair_counts):
                pairs.clamp_(min=float(pairs.max()) - settings.pair_span)

    @torch.no_grad()
    def validate(self, temperature: float) -> float:
        """Mean accuracy on validation classes, unadapted, of the mixture at this temperature.

        The episodes are the same at every call and do not touch the run's generators.
        """
        random = np.random.default_rng(self.config.train.seed + 1)
        ways = min(20, len(self._val))
        accuracies = []
        for _ in range(self.config.train.validation_episodes):
            episode = sample_episode(
                self._val, ways=ways, shots=1, queries=VALIDATION_QUERIES, random=random
            )
            relaxation = Softmax(temperature=temperature)
            x = self.inputs(episode)
            logits = self._logits(self.meta, episode, x, relaxation, 0.0)
            right = logits.argmax(1).numpy() == episode.query_labels
            accuracies.append(float(right.mean()))
        return sum(accuracies) / len(accuracies)


def _check_data(split: str, classes: Classes, ways: int, images: int) -> None:
    """Refuse before any work what would otherwise fail at some later draw."""
    if len(classes) < ways:
        message = f"the {split} split has {len(classes)} classes; {ways} or more are needed"
        raise DatasetError("DATASET_TOO_FEW_CLASSES", message)
    for name, members in classes.items():
        if len(members) < images:
            message = f"class {name!r} of the {split} split has {len(members)} images; {images} or "
            raise DatasetError("DATASET_TOO_FEW_IMAGES", message + "more are needed")


def _optimizer_config(settings: TrainConfig) -> TaskOptimizerConfig:
    return TaskOptimizerConfig(
        weight_lr=settings.weight_lr,
        alpha_lr=settings.alpha_lr,
        alpha_decay=settings.alpha_decay,
        beta1=settings.beta1,
        gradient_clip=settings.gradient_clip,
    )
