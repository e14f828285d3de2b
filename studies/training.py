"""Train the variants of a comparison: networks that are trained alike except for one choice.

Notes:
- An interrupted training resumes, and a finished one does not run again.
- The cost of a training is processor time, added up iteration by iteration. Other work on the
  machine lengthens it less than the time on the wall.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.runs.log import CHECKPOINT, SNAPSHOT_FILE
from metanas.runs.run import run
from metanas.spec.genotype import CELL_KINDS, Genotype, Node
from metanas.spec.search_space import SearchSpace
from metanas.training.config_file import read_config
from metanas.training.trainer import Progress as Iteration
from metanas_data.journal import Journal

COST_FILE = "cost.jsonl"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Trainings with the same changes to the configuration.

    run: beginning of the names of their folders, before the seed; groups may share trainings.
    overrides: as for `metanas train --set`.
    genotype_of: variant whose pruned meta-network, of the same seed, gives the fixed genotype.
    drawn: the fixed genotype is drawn at random by the seed.
    """

    run: str
    overrides: tuple[str, ...] = ()
    genotype_of: "Variant | None" = None
    drawn: bool = False

    @property
    def changes(self) -> list[str]:
        """The overrides for a reader."""
        fixed = ["search.genotype"] if self.genotype_of or self.drawn else []
        return [*self.overrides, *fixed]

    def trial(self, seed: int) -> str:
        """The name of the training with this seed."""
        return f"{self.run}-{seed}"


def _inner_sgd(learner: str, weights: float, alphas: float, *more: str) -> Variant:
    """Use a meta-learner with plain inner steps of these sizes, in training and in adaptation."""
    rates = (
        f"train.weight_lr = {weights}",
        f"search.alpha_lr = {alphas}",
        f"adapt.weight_lr = {weights}",
        f"adapt.alpha_lr = {alphas}",
    )
    named = (f'train.meta_learner = "{learner}"', 'train.task_optimizer = "sgd"')
    return Variant(run=learner, overrides=(*named, *rates, *more))


BASE = Variant(run="base")
"""The configuration as it is: REPTILE and DARTS."""
OUTER_ADAM = (
    'train.outer = "adam"',
    "train.meta_lr_weights = 0.01",
    "train.meta_lr_alphas = 0.01",
)
MAML = _inner_sgd("maml", 0.01, 0.03, *OUTER_ADAM)
"""Its inner steps are shorter than FOMAML's: through longer ones, fresh weights get gradients that
are large and point elsewhere (docs/experiments.md)."""
LEARNED_RATES = ("train.learned_rates = true", "train.meta_lr_rates = 0.01")
ALONE = ('search.relaxation = "fixed"',)
FIXED = Variant(run="fixed", overrides=ALONE, genotype_of=BASE)
GDAS = ('search.relaxation = "gdas"', "search.noise = 0.0")

GROUPS: Mapping[str, Mapping[str, Variant]] = {
    "relaxations": {
        "fixed": FIXED,
        "DARTS": BASE,
        "DARTS, sharpening": Variant(run="sharpening", overrides=("search.sharpen = true",)),
        "GDAS": Variant(run="gdas", overrides=GDAS),
        "PC-DARTS": Variant(run="pc-darts", overrides=("space.partial = 2",)),
    },
    "genotypes": {
        "a random architecture": Variant(run="drawn", overrides=ALONE, drawn=True),
        "DARTS' architecture": FIXED,
    },
    "learners": {
        "REPTILE": BASE,
        "FOMAML": _inner_sgd("fomaml", 0.03, 0.3),
        "MAML": MAML,
        "ANIL": _inner_sgd("anil", 0.01, 0.03, *OUTER_ADAM),
        "Meta-SGD": Variant(run="meta-sgd", overrides=(*MAML.overrides, *LEARNED_RATES)),
    },
}
"""Group -> name in tables -> variant; the others are compared with the first."""


def drawn_genotype(space: SearchSpace, seed: int) -> Genotype:
    """Draw a genotype uniformly from a search space: the control group of a search."""
    random = np.random.default_rng(seed)

    def node(index: int) -> Node:
        left, right = sorted(random.choice(index + 2, 2, replace=False).tolist())
        one, other = random.choice(space.ops, 2).tolist()
        return (left, one), (right, other)

    return Genotype(**{kind: tuple(map(node, range(space.nodes))) for kind in CELL_KINDS})


def train(
    variant: Variant,
    seed: int,
    config: Path,
    overrides: Sequence[str],
    runs: Path,
) -> tuple[Checkpoint, float]:
    """Train a variant of a configuration, or resume its training, in a folder below `runs`.

    Returns:
        the checkpoint, and the processor time of all iterations and validations in seconds.

    Raises:
        CheckpointError: the folder has a run of another configuration, or cannot be written.
        InvalidInput: the configuration is invalid.
    """
    changes = [*overrides, *variant.overrides, f"train.seed = {seed}"]
    if variant.genotype_of:
        searched, _ = train(variant.genotype_of, seed, config, overrides, runs)
        changes.append(_genotype(searched.meta_genotype))
    if variant.drawn:
        space = read_config(config, overrides).space
        changes.append(_genotype(drawn_genotype(space, seed)))
    settings, folder = read_config(config, changes), runs / variant.trial(seed)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"train {folder.name}", file=sys.stderr, flush=True)
    with Journal(folder / COST_FILE, {}) as cost:
        last = process_time()

        def done(iteration: Iteration) -> None:
            nonlocal last
            now = process_time()
            if iteration.iteration > len(cost.episodes):  # else repeated after a kill
                cost.add({"episode": iteration.iteration - 1, "seconds": now - last})
            last = now

        run(settings, folder, resume=(folder / SNAPSHOT_FILE).exists(), on_progress=done)
        seconds = sum(record["seconds"] for record in cost.episodes.values())
    return load_checkpoint(folder / CHECKPOINT), seconds


def _genotype(genotype: Genotype) -> str:
    """Write the override that fixes a genotype."""
    return f"search.genotype = {json.dumps(genotype.to_json())}"
