"""What is compared with one another: networks that are trained alike but for one choice.

Notable:
- Runs resume where they were interrupted, and what is trained is not trained again.
- What training costs is processor time, an iteration at a time. Other work on the machine lengthens
  that too, if by less than the time on the wall.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from types import MappingProxyType

import numpy as np
from rich.progress import Progress

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.runs.log import CHECKPOINT, SNAPSHOT_FILE
from metanas.runs.run import run
from metanas.spec.genotype import CELL_KINDS, Genotype, Node
from metanas.spec.search_space import SearchSpace
from metanas.training.config_file import read_config
from metanas.training.trainer import Progress as Seen
from metanas_data.journal import Journal

COST_FILE = "cost.jsonl"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Training runs, by what they have that the configuration has not."""

    run: str
    """Name of their folders, before the seed; variants of several groups can share runs."""
    overrides: tuple[str, ...] = ()
    """As for `python -m metanas train --set`."""
    genotype_of: "Variant | None" = None
    """Whose pruned meta-network, of the same seed, is trained alone; it is trained first."""
    drawn: bool = False
    """Whether the architecture that is trained alone is drawn by the seed, from all that there
    are."""

    @property
    def told(self) -> list[str]:
        """The overrides for a reader."""
        given = ["search.genotype"] if self.genotype_of or self.drawn else []
        return [*self.overrides, *given]

    def trial(self, seed: int) -> str:
        """The name of the run with this seed."""
        return f"{self.run}-{seed}"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run came to."""

    checkpoint: Checkpoint
    seconds: float
    """Processor time of all iterations, validations included."""


BASE = Variant(run="base")
"""The configuration as it is: REPTILE and DARTS."""


def _plain(learner: str, weights: float, alphas: float, *more: str) -> Variant:
    """A meta-learner whose inner steps are plain: their sizes in training and in adapting."""
    steps = (
        f"train.weight_lr = {weights}",
        f"search.alpha_lr = {alphas}",
        f"adapt.weight_lr = {weights}",
        f"adapt.alpha_lr = {alphas}",
    )
    named = (f'train.meta_learner = "{learner}"', 'train.task_optimizer = "sgd"')
    return Variant(run=learner, overrides=(*named, *steps, *more))


OUTER_ADAM = (
    'train.outer = "adam"',
    "train.meta_lr_weights = 0.01",
    "train.meta_lr_alphas = 0.01",
)
MAML = _plain("maml", 0.01, 0.03, *OUTER_ADAM)
"""Its inner steps are shorter than FOMAML's: through longer ones, fresh weights get gradients that
are large and point elsewhere (docs/experiments.md)."""


ALONE = ('search.relaxation = "fixed"',)
FIXED = Variant(run="fixed", overrides=ALONE, genotype_of=BASE)


GROUPS: Mapping[str, Mapping[str, Variant]] = MappingProxyType(
    {
        "relaxations": MappingProxyType(
            {
                "fixed": FIXED,
                "DARTS": BASE,
                "DARTS, sharpening": Variant(
                    run="sharpening", overrides=("search.sharpen = true",)
                ),
                "GDAS": Variant(
                    run="gdas", overrides=('search.relaxation = "gdas"', "search.noise = 0.0")
                ),
                "PC-DARTS": Variant(run="pc-darts", overrides=("space.partial = 2",)),
            }
        ),
        "genotypes": MappingProxyType(
            {
                "a random architecture": Variant(run="drawn", overrides=ALONE, drawn=True),
                "DARTS' architecture": FIXED,
            }
        ),
        "learners": MappingProxyType(
            {
                "REPTILE": BASE,
                "FOMAML": _plain("fomaml", 0.03, 0.3),
                "MAML": MAML,
                "ANIL": _plain("anil", 0.01, 0.03, *OUTER_ADAM),
                "Meta-SGD": Variant(
                    run="meta-sgd",
                    overrides=(
                        *MAML.overrides,
                        "train.learned_rates = true",
                        "train.meta_lr_rates = 0.01",
                    ),
                ),
            }
        ),
    }
)
"""Group -> name in tables -> variant; the others are compared with the first."""


def drawn_genotype(space: SearchSpace, seed: int) -> Genotype:
    """Any of a search space, all alike: the control of what a search finds."""
    random = np.random.default_rng(seed)

    def node(index: int) -> Node:
        left, right = sorted(random.choice(index + 2, 2, replace=False).tolist())
        one, other = random.choice(space.ops, 2).tolist()
        return (left, one), (right, other)

    cells = {kind: tuple(map(node, range(space.nodes))) for kind in CELL_KINDS}
    return Genotype(**cells)


def trained(
    variant: Variant,
    seed: int,
    config: Path,
    overrides: Sequence[str],
    runs: Path,
    shown: Progress,
) -> Trained:
    """What a variant's run of a configuration came to; it is begun or gone on with first.

    Raises:
        CheckpointError: its folder holds a run of another configuration, or cannot be written.
        InvalidInput: the configuration.
    """
    found = [*overrides, *variant.overrides, f"train.seed = {seed}"]
    if variant.genotype_of:
        searched = trained(variant.genotype_of, seed, config, overrides, runs, shown).checkpoint
        found.append(_given(searched.meta_genotype))
    if variant.drawn:
        found.append(_given(drawn_genotype(read_config(config, overrides).space, seed)))
    settings, folder = read_config(config, found), runs / variant.trial(seed)
    folder.mkdir(parents=True, exist_ok=True)
    task = shown.add_task("train", total=settings.train.iterations, seen=folder.name)
    with Journal(folder / COST_FILE, {}) as spent:
        last = process_time()

        def done(seen: Seen) -> None:
            nonlocal last
            now = process_time()
            if seen.iteration > len(spent.episodes):  # else done again after a kill
                spent.add({"episode": seen.iteration - 1, "seconds": now - last})
            last = now
            shown.update(task, completed=seen.iteration)

        run(settings, folder, resume=(folder / SNAPSHOT_FILE).exists(), on_progress=done)
        seconds = sum(record["seconds"] for record in spent.episodes.values())
    shown.remove_task(task)
    return Trained(checkpoint=load_checkpoint(folder / CHECKPOINT), seconds=seconds)


def _given(genotype: Genotype) -> str:
    """The override that names a genotype."""
    return f"search.genotype = {json.dumps(genotype.to_json())}"
