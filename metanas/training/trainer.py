"""Meta-training: the outer loop over tasks.

One meta-iteration: every task starts from the meta-parameters and takes a few task-optimizer steps
on weights and alphas while the temperature falls from start to end (`metanas.training.task_batch`).
Then the mean of the meta-gradients of all tasks moves the meta-parameters (MetaNAS,
arXiv:1911.11090, with REPTILE and DARTS as its instance).

Notes:
- Adaptation passes through the same temperatures. So the weights are trained for the mixture and
  for the discrete network at its end. Noise on the alphas trains similar discrete networks too.
- Every validation measures the soft and the pruned network. The pruned one chooses the checkpoint.
- A collapse counts as divergence: all features are equal, or noise, while losses stay finite.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metanas.checkpoint import Checkpoint
from metanas.errors import Diverged
from metanas.nn.functional import Rows
from metanas.nn.heads import HEADS
from metanas.nn.partial_channels import candidates
from metanas.nn.prototypes import membership
from metanas.nn.stem import interpolated
from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.supernet.adam import Moments, direction
from metanas.supernet.alphas import is_alpha
from metanas.supernet.flat_params import Layout, Params
from metanas.supernet.relaxations import Argmax, Relaxation, Softmax
from metanas.supernet.supernet import Supernet, genotype_of, initialise
from metanas.training.checks import VALIDATION_QUERIES, check_data, check_start
from metanas.training.config import RunConfig
from metanas.training.dataset import network_input
from metanas.training.extensions import Extensions, Learn
from metanas.training.schedule import cosine, fix, prune, search_at, searching, settle
from metanas.training.task_batch import MetaState, TaskResults, ways_of
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features, Task, sample_task

MOST_LOG_FACTOR = 5.0
"""Largest absolute logarithm of a learned factor on a rate."""
GUESSED_LOSS = 0.99
"""Loss from which answers may be guesses, as a share of the logarithm of the ways."""
GUESSED_ACCURACY = 1.5
"""Accuracy up to which such answers are guesses, as a multiple of that of guessing."""
COLLAPSED = 50
"""Meta-iterations in a row no better than guessing, after which a run that was better before, or
that is at its end, has diverged. A network that has learned anything is better in half of them."""
NEVER_BEGAN = 200
"""Meta-iterations no better than guessing from the start of a run, after which it has diverged."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One meta-iteration; the accuracies of a validation are NaN unless there was one."""

    iteration: int
    loss: float
    """Mean loss of the tasks' queries, over their steps."""
    accuracy: float
    """Mean accuracy of the tasks' queries, 0 to 1."""
    candidates: int
    """Operations that are still candidates, over all edges of both kinds of cell."""
    temperature: float
    """Temperature of a task's last step."""
    entropy: float
    """Mean entropy of the meta-alphas' mixture at that temperature, over edges, in nats."""
    meta_lr_weights: float
    meta_lr_alphas: float
    seconds: float
    """Wall time of the iteration, validation included."""
    soft: float = math.nan
    """Validation accuracy of the mixture, 0 to 1."""
    pruned: float = math.nan
    """Validation accuracy of the pruned network, 0 to 1."""
    genotype: str = ""
    """The pruned network's architecture, as JSON, at a validation."""


class MetaTrainer:
    """The state of a run: meta-parameters and optimizers; `iterate` advances it.

    A snapshot holds `params`, `factors`, `moments` and `outer`. `data` is a digest of the names and
    sizes of all classes. `learn` runs the inner loops; by default in this process.

    Raises:
        DatasetError: too few classes, or images of a class, for the tasks of the configuration.
        UnknownName: the extensions lack an operation, the relaxation or the meta-learner.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Classes | Features,
        val: Classes | Features,
        *,
        extensions: Extensions | None = None,
        learn: Learn | None = None,
    ) -> None:
        extensions = extensions or Extensions()
        check_data(config, train, val)
        self.config = config
        self.data = _digest(train, val)
        self._val = val
        self._learn = learn or extensions.batch(config, train)
        self.supernet = Supernet(config.space, candidates(config.space, extensions.ops))
        initialise(self.supernet, torch.Generator().manual_seed(config.train.seed))
        named = dict(self.supernet.named_parameters())
        self.layout = Layout(named)
        self.params = self.layout.flatten(named)
        self.supernet.requires_grad_(False)
        self._fix()
        self.factors = torch.zeros(len(self.layout.names))
        self.moments = Moments.zero(self.params, (2,))
        self.outer = Moments.zero(torch.cat([self.params, self.factors]), (3,))
        self.iteration = 0
        self.guessing = 0
        """Number of the last meta-iterations in a row that were no better than guessing."""
        self.guessed = 0
        """Number of all meta-iterations that were no better than guessing."""

    @property
    def meta(self) -> Params:
        """Meta-parameters, as views."""
        return self.layout.views(self.params)

    @property
    def saved(self) -> Params:
        """Parameters to validate and save."""
        return interpolated(self.meta, self.config.keep)

    @property
    def rates(self) -> dict[str, float]:
        """Learned factors on step sizes, by parameter; empty if they are not learned."""
        if not self.config.train.learned_rates:
            return {}
        return dict(zip(self.layout.names, self.factors.exp().tolist(), strict=True))

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's parameters and candidates.

        Take over its learned rates too, if this run learns them for the same task optimizer. Other
        runs do not save rates, so adaptation could not use them.

        Raises:
            CheckpointError: CHECKPOINT_FORMAT: it has another search space or input.
        """
        check_start(checkpoint, self.config)
        self.params = self.layout.flatten(checkpoint.params)
        card, settings = checkpoint.card, self.config.train
        if settings.learned_rates and card.task_optimizer == settings.task_optimizer:
            rates = [card.rates.get(name, 1.0) for name in self.layout.names]
            self.factors = torch.tensor(rates).log()
        for kind in CELL_KINDS:
            alive = checkpoint.supernet.cell_alpha(kind).alive
            self.supernet.cell_alpha(kind).alive.copy_(alive)
        self._fix()

    def iterate(self) -> Progress:
        """Run one meta-iteration.

        Raises:
            Diverged: a loss or gradient is not finite, or the loss stays that of guessing. The
                meta-parameters have not changed.
        """
        began = time.monotonic()
        settings = self.config.train
        results = self._learn(self._state(), range(settings.tasks))
        self._check_learning(results)
        outer_steps = self._step(results)
        self.iteration += 1
        self._drop_candidates()
        soft = pruned = math.nan
        last = self.iteration == settings.iterations
        if last or self.iteration % settings.validate_every == 0:
            end = search_at(self.config, self.iteration - 1).temperature_end
            soft, pruned = self.validate(Softmax(temperature=end)), self.validate(Argmax())
        return self._progress(results, outer_steps, time.monotonic() - began, soft, pruned)

    def _fix(self) -> None:
        if genotype := self.config.search.genotype:
            fix(self.supernet, self.meta, Genotype.from_json(genotype))

    def _state(self) -> MetaState:
        return MetaState(
            iteration=self.iteration,
            params=self.params,
            factors=self.factors,
            moments=self.moments,
            alive={kind: self.supernet.cell_alpha(kind).alive for kind in CELL_KINDS},
        )

    def _check_learning(self, results: TaskResults) -> None:
        """Count iterations no better than guessing; end a run that no longer learns."""
        loss, accuracy = results.loss / results.tasks, results.accuracy / results.tasks
        better = _beats_guessing(loss, accuracy, ways_of(self.config, self.iteration))
        self.guessing = 0 if better else self.guessing + 1
        self.guessed += not better
        never = self.guessing > self.iteration
        last = self.iteration + 1 == self.config.train.iterations
        if self.guessing >= (NEVER_BEGAN if never and not last else COLLAPSED):
            since = "from the start on; check the images" if never else "in a row"
            message = f"{self.guessing} iterations did no better than guessing, {since}"
            raise Diverged(f"{message}; lower the learning rates")

    def _step(self, results: TaskResults) -> tuple[float, float]:
        """Move the meta-parameters; return the step sizes of weights and alphas."""
        settings, tasks = self.config.train, results.tasks
        rate = 1.0
        if settings.anneal:
            rate = cosine(self.iteration / settings.iterations)
        outer_steps = rate * settings.meta_lr_weights, rate * settings.meta_lr_alphas
        alphas = self.layout.where(is_alpha)
        gradient = results.gradient / tasks
        if not searching(self.config, self.iteration):
            gradient = torch.where(alphas, 0.0, gradient)
        factors = results.factors / tasks * settings.learned_rates
        outer, step = self.outer, torch.cat([gradient, factors])
        if settings.outer == "adam":
            moving = True, searching(self.config, self.iteration), True
            outer, step = direction(outer, step, (*self.layout.groups, len(factors)), moving)
        of_params, of_factors = step.split([self.layout.size, len(factors)])
        lengths = torch.where(alphas, outer_steps[1], outer_steps[0]).to(gradient)
        params = self.params - lengths * of_params
        if not bool(torch.isfinite(params).all()):
            raise Diverged("the outer step is not finite; lower the meta learning rates")
        self.params, self.outer = params, outer
        stepped = self.factors - rate * settings.meta_lr_rates * of_factors
        self.factors = stepped.clamp(-MOST_LOG_FACTOR, MOST_LOG_FACTOR)
        moments = results.moments
        first, second = moments.first / tasks, moments.second / tasks
        self.moments = Moments(first=first, second=second, steps=moments.steps)
        return outer_steps

    def _drop_candidates(self) -> None:
        """Prune and settle the candidates as configured."""
        if not searching(self.config, self.iteration):
            return
        search = search_at(self.config, self.iteration)
        if search.prune_threshold and self.iteration % search.prune_every == 0:
            prune(self.supernet, self.meta, search)
        if 0 < search.settle <= self.iteration:
            settle(self.supernet, self.meta, search)

    def _progress(
        self,
        results: TaskResults,
        outer_steps: tuple[float, float],
        seconds: float,
        soft: float,
        pruned: float,
    ) -> Progress:
        number = self.iteration - 1  # of the iteration that has just ended
        search, warm_up = search_at(self.config, number), not searching(self.config, number)
        temperature = search.temperature_start if warm_up else search.temperature_end
        return Progress(
            iteration=self.iteration,
            loss=results.loss / results.tasks,
            accuracy=results.accuracy / results.tasks,
            candidates=sum(int(self.supernet.cell_alpha(k).alive.sum()) for k in CELL_KINDS),
            temperature=temperature,
            entropy=float(self.supernet.entropy(self.meta, Softmax(temperature=temperature))),
            meta_lr_weights=outer_steps[0],
            meta_lr_alphas=outer_steps[1],
            seconds=seconds,
            soft=soft,
            pruned=pruned,
            genotype="" if math.isnan(pruned) else genotype_of(self.supernet, self.saved).to_json(),
        )

    @torch.no_grad()
    def validate(self, relaxation: Relaxation) -> float:
        """Measure the mean accuracy on validation classes without adaptation.

        The episodes are the same at every call.
        """
        episodes = islice(self._episodes(), self.config.train.validation_episodes)
        params = self.saved
        accuracies = [self._evaluate(episode, params, relaxation)[1] for episode in episodes]
        return sum(accuracies) / len(accuracies)

    @torch.no_grad()
    def sound(self) -> bool:
        """Return True if a snapshot may replace an older one.

        If most iterations were no better than guessing, no older snapshot is better. Otherwise the
        last iteration must be better than guessing, which measures the parameters before its step,
        and so must an episode of validation classes, which measures the present ones.
        """
        if 2 * self.guessed > self.iteration:
            return True
        episode = next(self._episodes())
        soft = Softmax(temperature=search_at(self.config, self.iteration).temperature_end)
        loss, accuracy = self._evaluate(episode, self.meta, soft)
        return not self.guessing and _beats_guessing(loss, accuracy, len(episode.classes))

    def _episodes(self) -> Iterator[Task]:
        """Draw the episodes of validation, the same at every call."""
        random = np.random.default_rng(self.config.train.seed + 1)
        ways = min(20, len(self._val))
        while True:
            yield sample_task(
                self._val, ways=ways, shots=1, queries=VALIDATION_QUERIES, random=random
            )

    def _evaluate(
        self, episode: Task, params: Params, relaxation: Relaxation
    ) -> tuple[float, float]:
        """Compute loss and accuracy of the queries of an episode."""
        x, labels = network_input(episode, self.config), episode.query_labels
        members = membership(torch.from_numpy(episode.support_labels), len(episode.classes))
        count = len(members)
        arguments = (x, Rows(count), relaxation)
        out: Tensor = functional_call(self.supernet, params, arguments, tie_weights=False)
        scale = params["head.log_scale"].exp()
        head = HEADS[self.config.adapt.head]
        logits = head.logits(out[:count], members, out[count:], scale)
        accuracy = (logits.argmax(1).numpy() == labels).mean()
        return float(F.cross_entropy(logits, torch.from_numpy(labels))), float(accuracy)


def _beats_guessing(loss: float, accuracy: float, ways: int) -> bool:
    """Return True if the answers are better than guesses; False for NaN."""
    return loss < GUESSED_LOSS * math.log(ways) or accuracy * ways > GUESSED_ACCURACY


def _digest(*splits: Classes | Features) -> str:
    """Return the SHA-256 of the names of all classes and their numbers of images."""
    sizes = [[(name, len(images)) for name, images in split.items()] for split in splits]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
