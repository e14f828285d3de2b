"""The configuration of a meta-training run, validated in full before any work.

Checks also refuse runs with a useless result: a search that never begins, or a task optimizer that
differs from that of adaptation.
"""

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated

from metanas.errors import InvalidInput, Violation
from metanas.spec.card import InputSpec, TaskOptimizer, check_input, check_options
from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.spec.options import AdaptConfig, AffineRange, PhotoRange
from metanas.spec.search_space import SearchSpace
from metanas.util.fields import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    OneOf,
    Positive,
    Range,
    check,
    require,
)

MOST_ADAM_LR = 0.1
"""Largest outer step size with Adam: each parameter moves by about this much in a step."""
MOST_THREADS = 1024
"""Most threads of torch; it crashes with a hundred thousand."""
STEPS_OF = {"reptile": "adam", "fomaml": "sgd", "maml": "sgd", "anil": "sgd"}
"""Meta-learner -> its task optimizer. Extensions may use either."""
FIXED = "fixed"
"""Name of the relaxation that learns no architecture."""
AtLeastTwo = Annotated[int, Range(least=2)]
BelowOne = Annotated[float, Range(least=0, below=1)]
Temperature = Annotated[float, Range(least=1e-3)]
"""Below the least temperature, roundings of the alphas would decide their shares."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data of meta-training."""

    path: str
    """An Omniglot-like npz, a pack of encoded images, or a folder of class folders."""
    more: tuple[str, ...] = ()
    """Further data sets. Tasks draw from all classes alike, or with `task.groups` from one data
    set, which is drawn uniformly."""
    train_split: str = "train"
    """Split that meta-training draws its tasks from."""
    val_split: str = "val"
    """Split that scores snapshots; never test classes."""
    rotations: bool = False
    """Each class turned by 90, 180 and 270 degrees counts as three more classes."""
    mirrored: bool = False
    """Each class, and each turn of it, counts as one more class when mirrored."""
    licence: str = ""
    """Terms of the data, for the model card."""
    least_images: Natural = 0
    """Classes with fewer images are left out; 0 leaves none out."""
    most_images: Natural = 0
    """Most images of a class, evenly spaced among all of them; 0 takes all. With a trunk, time and
    memory before the training grow with them."""
    unreadable: Annotated[str, OneOf(("refuse", "skip"))] = "refuse"
    """Treatment of images that cannot be read: "refuse" ends the run before it begins, "skip"
    leaves them out. Both count and name them."""

    def __post_init__(self) -> None:
        check(self)
        names = [Path(path).stem for path in (self.path, *self.more)]
        differ = len(set(names)) == len(names)
        require(
            ("path", bool(self.path), "must name a file or a folder"),
            ("more", differ, "must be data sets whose files have different names"),
        )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The tasks of meta-training."""

    ways: tuple[AtLeastTwo, AtLeastTwo] = (5, 25)
    """Least and most classes of a task, drawn uniformly."""
    groups: Natural = 0
    """Most groups that the classes of a task come from; 0 draws from all classes alike. The number
    is drawn uniformly, from 1, and grows where the groups have too few classes. All groups of a
    task are of one data set. The group of a class is its name up to the last slash: an alphabet, a
    data set, a folder. Classes of one group resemble each other, so such tasks are harder."""
    shots: tuple[Count, ...] = (1, 1, 2, 5)
    """Shots of a step, drawn uniformly from the entries that leave as many queries; the fewest
    where none does."""
    images: Count = 140
    """Images of a step, support set and queries together."""
    round_robin: bool = False
    """The images of a step take turns as support set, `shots` of each class at a time, with all
    others as queries: many more comparisons from one forward pass. Norms take their statistics from
    the first support set. A step shows no image twice, so the smallest class limits the images of
    each class."""
    steps: Count = 3
    """Task-optimizer steps of a task."""

    def __post_init__(self) -> None:
        check(self)
        low, high = self.ways
        least = (1 + min(self.shots, default=1)) * high
        require(
            ("ways", low <= high, "must be two numbers, the lower one first"),
            ("shots", bool(self.shots), "must be one or more numbers"),
            ("images", self.images >= least, f"must be {least} or more for shots and queries"),
        )


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search for an architecture."""

    relaxation: str = "darts"
    """Name of a relaxation: darts, gdas, or fixed for a given genotype that is not searched."""
    genotype: str = ""
    """The genotype of `fixed`, as JSON."""
    order: Annotated[str, OneOf(("single", "first", "second"))] = "single"
    """Source of the gradient of the alphas: "single", the backward pass of the weights; "first" or
    "second", a second episode (bilevel), at the present weights or one step further."""
    warm_up: Natural = 0
    """Meta-iterations before the alphas begin to learn."""
    alpha_lr: NonNegative = 1e-2
    """Step size of the task optimizer on the alphas."""
    alpha_decay: NonNegative = 1e-3
    """L2 penalty on the alphas in the task optimizer."""
    temperature_start: Temperature = 0.5
    """Temperature of a task's first step, and of the warm-up."""
    temperature_end: Temperature = 0.05
    """Temperature of a task's last step."""
    noise: NonNegative = 0.15
    """Scale of the Gumbel noise on the alphas, which trains near alternatives too. It adds to the
    draws of the relaxation itself."""
    sharpen: bool = False
    """Over the run, the noise falls to zero and `temperature_end` to a tenth, by a cosine. The run
    trains near alternatives early, and at the end nearly the pruned network alone."""
    share_threshold: BelowOne = 0.02
    """Candidates below this share of their node are not evaluated in a step."""
    prune_threshold: BelowOne = 0.0
    """Candidates whose weight on their edge at `temperature_end` is below this leave the
    meta-architecture for good, every `prune_every` iterations after the warm-up; 0 keeps all."""
    prune_every: Count = 500
    """Meta-iterations between prunings."""
    settle: Natural = 0
    """Meta-iteration at which the meta-architecture settles, 0 for never: each edge keeps its
    `keep` best candidates for good, and the spans limit their distance from the best."""
    keep: Count = 2
    """Candidates of an edge that remain for adaptation to choose from."""
    op_span: NonNegative = 0.25
    """After settling, no candidate's alpha is further than this below its edge's best."""
    pair_span: NonNegative = 0.5
    """After settling, no pair's alpha is further than this below its node's best."""

    def __post_init__(self) -> None:
        check(self)
        falls = self.temperature_end <= self.temperature_start
        fits = (self.relaxation == FIXED) == bool(self.genotype)
        require(
            ("temperature_end", falls, "must be at most temperature_start"),
            ("genotype", fits, 'goes with relaxation = "fixed", and only with it'),
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The outer loop, the task optimizer, and what the run leaves on disk."""

    iterations: Count
    """Meta-iterations."""
    start: str = ""
    """Folder of a checkpoint of the same search space and input, whose parameters and candidates
    the run starts from; empty draws the weights."""
    tasks: Count = 1
    """Tasks of a meta-iteration, over which the meta-gradient is the mean."""
    stack: Natural = 0
    """Most tasks that are evaluated together; 0 is all of them. Less takes less memory."""
    meta_learner: str = "reptile"
    """Name of a meta-learner: reptile, fomaml, maml, anil."""
    task_optimizer: TaskOptimizer = "adam"
    """Task optimizer: "adam", as in REPTILE's inner loop, or "sgd", the plain steps of MAML and its
    variants. It must be that of the meta-learner: "adam" for reptile."""
    outer: Annotated[str, OneOf(("sgd", "adam"))] = "sgd"
    """Outer optimizer: "sgd" (with REPTILE, steps towards the adapted parameters) or "adam"."""
    meta_lr_weights: NonNegative = 1.0
    """Outer step size on the weights; with "adam" about 1e-3, at most 0.1."""
    meta_lr_alphas: NonNegative = 0.6
    """Outer step size on the alphas; with "adam" about 1e-2, at most 0.1."""
    anneal: bool = True
    """The outer step sizes fall to zero over the run, by a cosine."""
    learned_rates: bool = False
    """The task optimizer's step sizes are learned, one for each tensor (Meta-SGD)."""
    meta_lr_rates: NonNegative = 0.1
    """Outer step size on the logarithms of the learned rates."""
    weight_lr: NonNegative = 3e-3
    """Step size of the task optimizer on the weights."""
    beta1: BelowOne = 0.9
    """First-moment decay of REPTILE's task optimizer, whose state is carried from task to task."""
    gradient_clip: Positive = 10.0
    """Largest gradient norm in the task optimizer."""
    drop_path: BelowOne = 0.0
    """Probability that an operation other than the identity is left out, for each image."""
    validate_every: Count = 500
    """Meta-iterations between validations."""
    validation_episodes: Count = 200
    """Episodes of a validation, 20-way 1-shot where the data has as many classes; the same each
    time. With 60, the means of two draws were two points apart."""
    snapshot_every: Count = 100
    """Meta-iterations between snapshots to resume from."""
    snapshot_seconds: Positive = 600.0
    """Most seconds between snapshots."""
    log_every: Count = 10
    """Meta-iterations between lines of the log; validations have a line each."""
    seed: Annotated[int, Range(least=0, below=2**63)] = 0
    """Seed of everything random in the run."""
    threads: Annotated[int, Range(0, MOST_THREADS)] = 0
    """Threads of torch; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        check(self)
        steps = STEPS_OF.get(self.meta_learner, self.task_optimizer)
        differs = f'must be "{steps}" with meta_learner = "{self.meta_learner}", which trains with '
        differs += "such steps: so adapt its checkpoints"
        far = f'must be given and at most {MOST_ADAM_LR} with outer = "adam", which moves every '
        far += "parameter by about this much; 1e-3 is usual, the default of 1 is for sgd"
        most = MOST_ADAM_LR if self.outer == "adam" else inf
        require(
            ("task_optimizer", steps == self.task_optimizer, differs),
            ("meta_lr_weights", self.meta_lr_weights <= most, far),
            ("meta_lr_alphas", self.meta_lr_alphas <= most, far),
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run of meta-training."""

    name: str
    """Name of the run, of its checkpoint, and of its folder unless `--out` names another."""
    description: str
    """Purpose of the checkpoint, for its card and the list of a server."""
    data: DataConfig
    input: InputSpec
    space: SearchSpace
    adapt: AdaptConfig
    train: TrainConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    augment: AffineRange = field(default_factory=AffineRange)
    photo: PhotoRange = field(default_factory=PhotoRange)
    views: Natural = 4
    """With a trunk: views of an image that are put through it once, before training."""
    keep: Fraction = 0.0
    """With a trunk: part of the way back to the frozen trunk at which validated and saved weights
    lie (`metanas.nn.stem.interpolated`)."""

    def __post_init__(self) -> None:
        check(self)
        check_input(self.input, self.space)
        check_options(self.adapt, self.input, self.space, "adapt")
        if self.search.relaxation == FIXED:
            _check_genotype(self.search.genotype, self.space)
        else:
            _check_schedule(self.search, self.train.iterations)
        rates = self.train.learned_rates and self.train.meta_learner == "reptile"
        steps = not rates or self.task.steps >= 2
        named = Path(self.name).name == self.name not in ("", "..") and self.name.isprintable()
        folder = "must be fit to name a folder: characters that can be printed, no slash"
        require(
            ("task.steps", steps, "must be at least 2 for REPTILE to learn rates"),
            ("name", named, folder),
        )


def _check_schedule(search: SearchConfig, iterations: int) -> None:
    """Check that the search begins, and before it settles."""
    begins = f'must be below train.iterations = {iterations}, or nothing is searched; "{FIXED}" is '
    begins += "the search.relaxation that searches nothing"
    settles = f"must be above search.warm_up = {search.warm_up} and at most train.iterations = "
    settles += f"{iterations}, or 0 for never"
    settled = not search.settle or search.warm_up < search.settle <= iterations
    require(
        ("search.warm_up", search.warm_up < iterations, begins),
        ("search.settle", settled, settles),
    )


def _check_genotype(text: str, space: SearchSpace) -> None:
    """Check that the text is the JSON of a genotype of the search space."""
    try:
        genotype = Genotype.from_json(text)
    except InvalidInput as error:
        raise error.within("search") from error
    bad = []
    for kind in CELL_KINDS:
        cell = genotype.cell(kind)
        if len(cell) != space.nodes:
            bad.append(f"the {kind} cell has {len(cell)} nodes, the search space {space.nodes}")
        missing = {name for node in cell for _, name in node} - set(space.ops)
        for name in sorted(missing):
            has = ", ".join(space.ops)
            bad.append(f"the search space has no operation {name!r}; it has {has}")
    if bad:
        raise InvalidInput(Violation("search.genotype", "GENOTYPE_MALFORMED", each) for each in bad)
