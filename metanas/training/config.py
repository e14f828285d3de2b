"""The configuration of a meta-training run, validated in full before any work.

What would train to the end and come to nothing is refused, too: a search that never begins, steps
in training that are not those of adaptation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from metanas.errors import InvalidInput, Violation
from metanas.spec.card import TASK_OPTIMIZERS, InputSpec, check_input, check_options
from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.spec.options import AdaptConfig, AffineRange, PhotoRange
from metanas.spec.search_space import SearchSpace

ADAM_FARTHEST = 0.1
"""Largest outer step size with Adam, which moves every parameter by it, whatever the gradient."""
COOLEST = 1e-3
"""The least temperature: below it roundings of the alphas would decide their shares."""
SEEDS = 2**63
"""How many seeds a generator can be made from."""
MOST_THREADS = 1024
"""Of torch, which crashes with a hundred thousand."""
STEPS_OF = {"reptile": "adam", "fomaml": "sgd", "maml": "sgd", "anil": "sgd"}
"""Meta-learner -> the task optimizer that it trains with; what others do only they know."""
FIXED = "fixed"
"""Name of the relaxation that learns no architecture."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on."""

    path: str
    """An Omniglot-like npz, a pack of encoded images, or a folder of class folders."""
    more: tuple[str, ...] = ()
    """Further data sets. A task's classes are drawn from all of them alike."""
    train_split: str = "train"
    """Split that meta-training draws its tasks from."""
    val_split: str = "val"
    """Split that scores snapshots; never test classes."""
    rotations: bool = False
    """Whether each class turned by 90, 180 and 270 degrees counts as three more classes."""
    mirrored: bool = False
    """Whether each class, and each turn of it, seen in a mirror counts as one more class."""
    licence: str = ""
    """Terms of the data, for the model card."""
    unreadable: str = "refuse"
    """What happens to images that cannot be read: "refuse" ends the run before it begins, "skip"
    leaves them out. Either way they are counted and named."""

    def __post_init__(self) -> None:
        names = [Path(path).stem for path in (self.path, *self.more)]
        apart = len(set(names)) == len(names)
        checks = {
            "path": (bool(self.path), "must name a file or a folder"),
            "more": (apart, "must be data sets whose files have different names"),
            "unreadable": (self.unreadable in ("refuse", "skip"), "must be refuse or skip"),
        }
        _refuse("data", checks)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The tasks of meta-training."""

    ways: tuple[int, int] = (5, 25)
    """Least and most classes of a task, drawn uniformly."""
    groups: int = 0
    """Most groups that a task's classes come from (from one to so many, drawn uniformly, and more
    if those have too few classes); 0 draws from all classes alike. A group is what names have
    before their last slash: an alphabet at a turn, one of several data sets, a folder's folder. Its
    classes resemble each other, and it is among such that a network has to tell."""
    shots: tuple[int, ...] = (1, 1, 2, 5)
    """Shots of a step, drawn uniformly from those of this list that leave as many queries; the
    fewest where none does."""
    images: int = 140
    """Images of a step, support set and queries together; what the support leaves is queries."""
    round_robin: bool = False
    """Whether images of a step are support set in turn, `shots` of each class at a time and all
    others queries: many more comparisons, by the same forward pass. Norms take their statistics
    from the first turn's support set throughout. No image is shown twice in a step, so of every
    class there are at most as many as the smallest has."""
    steps: int = 3
    """Task-optimizer steps of a task."""

    def __post_init__(self) -> None:
        low, high = self.ways
        least = (1 + min(self.shots, default=1)) * high
        checks = {
            "ways": (2 <= low <= high, "must be two numbers of at least 2, the lower one first"),
            "shots": (min(self.shots, default=0) >= 1, "must be one or more numbers above 0"),
            "images": (self.images >= least, f"must be {least} or more for shots and queries"),
            "steps": (self.steps >= 1, "must be at least 1"),
            "groups": (self.groups >= 0, "must be at least 0"),
        }
        _refuse("task", checks)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search for an architecture."""

    relaxation: str = "darts"
    """Name of a relaxation: darts, gdas, or fixed for a given genotype that is not searched."""
    genotype: str = ""
    """The genotype of `fixed`, as JSON."""
    order: str = "single"
    """Where the alphas get their gradient from: "single", the backward pass of the weights;
    "first" or "second", an episode of their own (bilevel), at the weights as they are or one step
    further."""
    warm_up: int = 0
    """Meta-iterations before the alphas begin to learn."""
    alpha_lr: float = 1e-2
    """Step size of the task optimizer on the alphas."""
    alpha_decay: float = 1e-3
    """L2 penalty on the alphas in the task optimizer."""
    temperature_start: float = 0.5
    """Temperature of a task's first step, and of the warm-up."""
    temperature_end: float = 0.05
    """Temperature of a task's last step."""
    noise: float = 0.15
    """Scale of the Gumbel noise on the alphas, so that near alternatives are trained too; it comes
    on top of what a relaxation draws itself."""
    sharpen: bool = False
    """Whether the noise falls to nothing and `temperature_end` to a tenth over the run, by a
    cosine, whether or not the meta learning rates do. Near alternatives are trained early on; what
    is trained at the end is the pruned network, nearly alone."""
    share_threshold: float = 0.02
    """Candidates below this share of their node are not evaluated in a step."""
    prune_threshold: float = 0.0
    """Every `prune_every` iterations after the warm-up, candidates whose weight on their edge at
    `temperature_end` is below this leave the meta-architecture for good; 0 keeps all."""
    prune_every: int = 500
    """Meta-iterations between prunings."""
    settle: int = 0
    """Meta-iteration at which the meta-architecture settles, 0 for never: an edge keeps its `keep`
    best candidates for good, and from then on spans bound how far behind a candidate can fall."""
    keep: int = 2
    """Candidates of an edge that remain for adaptation to choose from."""
    op_span: float = 0.25
    """After settling, no candidate's alpha is further than this below its edge's best."""
    pair_span: float = 0.5
    """After settling, no pair's alpha is further than this below its node's best."""

    def __post_init__(self) -> None:
        positive = ("temperature_start", "temperature_end")
        checks = _numbers(self, counted=("prune_every", "keep"), positive=positive)
        if not COOLEST <= self.temperature_end <= self.temperature_start:
            what = f"must be at least {COOLEST} and at most temperature_start"
            checks["temperature_end"] = (False, what)
        for name in ("prune_threshold", "share_threshold"):
            if getattr(self, name) >= 1:
                checks[name] = (False, "must be below 1")
        orders = ("single", "first", "second")
        checks["order"] = (self.order in orders, f"must be one of {', '.join(orders)}")
        if (self.relaxation == FIXED) != bool(self.genotype):
            checks["genotype"] = (False, 'goes with relaxation = "fixed", and only with it')
        _refuse("search", checks)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The outer loop, the task optimizer, and what the run leaves on disk."""

    iterations: int
    """Meta-iterations."""
    start: str = ""
    """Folder of a checkpoint of the same search space and input, whose parameters and candidates a
    new run starts from; without it, the weights are drawn."""
    tasks: int = 1
    """Tasks of a meta-iteration, over which the meta-gradient is the mean."""
    stack: int = 0
    """Most tasks that are evaluated together; 0 is all of them. Less takes less memory."""
    meta_learner: str = "reptile"
    """Name of a meta-learner: reptile, fomaml, maml, anil."""
    task_optimizer: str = "adam"
    """What adapts the checkpoint to a task: "adam", as in REPTILE's inner loop, or "sgd", the plain
    steps of MAML and its kin. It has to be that of the meta-learner: "adam" for reptile."""
    outer: str = "sgd"
    """Outer optimizer: "sgd" (with REPTILE, steps towards where the tasks went) or "adam"."""
    meta_lr_weights: float = 1.0
    """Outer step size on the weights; with "adam" about 1e-3, at most 0.1."""
    meta_lr_alphas: float = 0.6
    """Outer step size on the alphas; with "adam" about 1e-2, at most 0.1."""
    anneal: bool = True
    """Whether the outer step sizes fall to zero over the run, by a cosine."""
    learned_rates: bool = False
    """Whether the task optimizer's step sizes are learned, one for each tensor (Meta-SGD)."""
    meta_lr_rates: float = 0.1
    """Outer step size on the logarithms of the learned rates."""
    weight_lr: float = 3e-3
    """Step size of the task optimizer on the weights."""
    beta1: float = 0.9
    """First-moment decay of REPTILE's task optimizer, whose state is carried from task to task."""
    gradient_clip: float = 10.0
    """Largest gradient norm in the task optimizer."""
    drop_path: float = 0.0
    """Probability that an operation other than the identity is left out, for each image."""
    validate_every: int = 500
    """Meta-iterations between validations."""
    validation_episodes: int = 200
    """Episodes of a validation (20-way 1-shot where the data has as many classes). The same are
    drawn every time: of 60 that one run had, the mean was two points above that of others."""
    snapshot_every: int = 100
    """Meta-iterations between snapshots to resume from."""
    snapshot_seconds: float = 600.0
    """Seconds after which there is a snapshot in any case."""
    log_every: int = 10
    """Meta-iterations between lines of the log; validations have a line each."""
    seed: int = 0
    """Seed of everything random in the run."""
    threads: int = 0
    """Threads of torch, at most 1024; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        every = ("validate_every", "snapshot_every", "log_every")
        counted = ("iterations", "tasks", "validation_episodes", *every)
        checks = _numbers(self, counted=counted, positive=("gradient_clip", "snapshot_seconds"))
        known = ", ".join(TASK_OPTIMIZERS)
        checks["task_optimizer"] = (self.task_optimizer in TASK_OPTIMIZERS, f"must be {known}")
        steps = STEPS_OF.get(self.meta_learner, self.task_optimizer)
        if steps != self.task_optimizer in TASK_OPTIMIZERS:
            what = f'must be "{steps}" with meta_learner = "{self.meta_learner}", which trains with'
            checks["task_optimizer"] = (False, f"{what} such steps: so adapt its checkpoints")
        checks["seed"] = (0 <= self.seed < SEEDS, "must be at least 0 and below 2^63")
        if self.threads > MOST_THREADS:
            checks["threads"] = (False, f"must be at most {MOST_THREADS}")
        checks["outer"] = (self.outer in ("sgd", "adam"), "must be sgd or adam")
        if self.outer == "adam":
            what = (
                f'must be given and at most {ADAM_FARTHEST} with outer = "adam", which moves every '
            )
            what += "parameter by about so much; 1e-3 is usual, the default of 1 is for sgd"
            for name in ("meta_lr_weights", "meta_lr_alphas"):
                if getattr(self, name) > ADAM_FARTHEST:
                    checks[name] = (False, what)
        for name in ("beta1", "drop_path"):
            if getattr(self, name) >= 1:
                checks[name] = (False, "must be below 1")
        _refuse("train", checks)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run."""

    name: str
    """Of the run and its checkpoint; its folder is called by it unless `--out` says otherwise."""
    description: str
    """What the checkpoint is for, in its card and in a server's list."""
    data: DataConfig
    input: InputSpec
    space: SearchSpace
    adapt: AdaptConfig
    train: TrainConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    augment: AffineRange = field(default_factory=AffineRange)
    photo: PhotoRange = field(default_factory=PhotoRange)
    views: int = 4
    """With a trunk: views of an image that are put through it once, before training."""
    keep: float = 0.0
    """With a trunk: how far, 0 to 1, what is validated and saved lies back towards the frozen trunk
    (`metanas.nn.stem.tempered`)."""

    def __post_init__(self) -> None:
        check_input(self.input, self.space)
        check_options(self.adapt, self.input, self.space)
        if self.search.relaxation == FIXED:
            _check_genotype(self.search.genotype, self.space)
        else:
            _check_schedule(self.search, self.train.iterations)
        if self.train.learned_rates and self.train.meta_learner == "reptile":
            enough = self.task.steps >= 2, "must be at least 2 for REPTILE to learn rates"
            _refuse("task", {"steps": enough})
        named = Path(self.name).name == self.name not in ("", "..") and self.name.isprintable()
        checks = {
            "name": (
                named,
                "must be fit to name a folder: characters that can be printed, no slash",
            ),
            "views": (self.views >= 1, "must be at least 1"),
            "keep": (0 <= self.keep <= 1, "must be 0 to 1"),
        }
        _refuse("", checks)


def _check_schedule(search: SearchConfig, iterations: int) -> None:
    """Refuse a search that does not begin, or settles on what has not been searched."""
    begins = f'must be below train.iterations = {iterations}, or nothing is searched; "{FIXED}" is '
    begins += "the search.relaxation that searches nothing"
    settles = f"must be above search.warm_up = {search.warm_up} and at most train.iterations = "
    settles += f"{iterations}, or 0 for never"
    checks = {
        "warm_up": (search.warm_up < iterations, begins),
        "settle": (not search.settle or search.warm_up < search.settle <= iterations, settles),
    }
    _refuse("search", checks)


def _check_genotype(text: str, space: SearchSpace) -> None:
    """Whether this is the JSON of a genotype of the search space."""
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


def _numbers(
    config: object, *, counted: Sequence[str], positive: Sequence[str]
) -> dict[str, tuple[bool, str]]:
    """Bounds of numeric fields: at least 1 if counted, above 0 if positive, at least 0 else.

    All are finite.
    """
    checks = {}
    for name, value in vars(config).items():
        if isinstance(value, str | bool):
            continue
        if value == inf:
            checks[name] = (False, "must be finite")
        elif name in counted:
            checks[name] = (value >= 1, "must be at least 1")
        elif name in positive:
            checks[name] = (value > 0, "must be above 0")
        else:
            checks[name] = (value >= 0, "must be at least 0")
    return checks


def _refuse(section: str, checks: Mapping[str, tuple[bool, str]]) -> None:
    bad = [
        Violation(f"{section}.{name}".lstrip("."), "OPTION_OUT_OF_RANGE", what)
        for name, (ok, what) in checks.items()
        if not ok
    ]
    if bad:
        raise InvalidInput(bad)
