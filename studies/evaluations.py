"""Evaluations of a checkpoint in several settings; each resumes from its journal."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.harness.machine import ROOT, facts
from benchmarks.harness.results import Results, Row, Tables, publish
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput, MetanasError
from metanas.evaluation.resume import Plan, measured, run_plan
from metanas.spec.options import AdaptConfig, Option
from metanas_data.datasets.dataset import Dataset
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.journal import Record
from studies.controls import linear_probe

STORED = ROOT / "studies" / "results"
LOCAL = STORED / "local"
BOTH, WEIGHTS, PRUNED, NONE = "both", "weights", "pruned", "none"
PROBE = "probe"
COLUMNS = {
    "accuracy": "accuracy",
    "pruned": "accuracy_pruned",
    "soft": "accuracy_soft",
    "transductive": "accuracy_transductive",
    "moved": "meta_genotype_distance",
    "parameters": "parameters",
    "macs": "macs",
    "query_seconds": "query_seconds",
}
"""Column of a row -> figure of a record."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to adapt, on a number of episodes of one shape, WAYSxSHOTS."""

    name: str
    shape: str
    episodes: int
    overrides: Mapping[str, Option] = field(default_factory=dict)
    transductive: bool = False


def overrides_of(name: str, defaults: AdaptConfig) -> dict[str, Option]:
    """Return the options of a setting."""
    every = defaults.steps + defaults.tuning_steps
    changes: dict[str, dict[str, Option]] = {
        BOTH: {},
        WEIGHTS: {"alpha_lr": 0.0},
        PRUNED: {"steps": 0, "tuning_steps": every},
    }
    return changes.get(name, {"steps": 0, "tuning_steps": 0})


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A checkpoint, by its name in tables, in one setting."""

    label: str
    plan: Plan
    setting: Setting

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.label}-{self.setting.shape}-{self.setting.name}"


def planned(
    label: str,
    checkpoint: Checkpoint,
    dataset: Dataset,
    setting: Setting,
    options: argparse.Namespace,
) -> Evaluation:
    """Plan an evaluation by the options of `add_options`.

    Raises:
        InvalidInput: the shape is not WAYSxSHOTS.
        DatasetError: the data set cannot give such episodes.
    """
    shape = shape_of(setting.shape, options.queries)
    plan = Plan(
        checkpoint=checkpoint,
        sampler=Sampler(dataset, shape, options.seed),
        episodes=max(2, round(setting.episodes * options.scale)),
        options=checkpoint.card.defaults.replace(setting.overrides),
        together=options.together,
        transductive=setting.transductive,
    )
    return Evaluation(label=label, plan=plan, setting=setting)


def shape_of(text: str, queries: int) -> EpisodeShape:
    """Parse WAYSxSHOTS.

    Raises:
        InvalidInput: it is not of that form.
    """
    ways, _, shots = text.partition("x")
    if not (ways.isdecimal() and shots.isdecimal() and int(ways) > 1 and int(shots) > 0):
        message = f"{text!r} is not WAYSxSHOTS, such as 5x1"
        raise InvalidInput.single("--shapes", "OPTION_OUT_OF_RANGE", message)
    return EpisodeShape(ways=int(ways), shots=int(shots), queries=queries)


def title_of(shape: str) -> str:
    """Write a shape for tables: "5-way 1-shot"."""
    ways, _, shots = shape.partition("x")
    return f"{ways}-way {shots}-shot"


def row_of(evaluation: Evaluation, records: Sequence[Record]) -> Row:
    """Store an evaluation as a row: a column a figure, each genotype once."""
    plan, setting, sampler = evaluation.plan, evaluation.setting, evaluation.plan.sampler
    genotypes = [record["genotype"] for record in records if "genotype" in record]
    distinct = [g for i, g in enumerate(genotypes) if g not in genotypes[:i]]
    columns = {
        name: [record[figure] for record in records]
        for name, figure in COLUMNS.items()
        if records[0].get(figure) is not None
    }
    return {
        "checkpoint": evaluation.label,
        "setting": setting.name,
        "shape": setting.shape,
        "options": plan.options.to_dict(),
        "data": f"{sampler.dataset.name}, split {sampler.dataset.split}",
        "classes": len(sampler.sizes),
        "seed": sampler.seed,
        "queries": sampler.shape.queries,
        **columns,
        "genotypes": distinct,
        "genotype": [distinct.index(genotype) for genotype in genotypes],
    }


def measure(evaluations: Sequence[Evaluation], work: Path) -> list[Row]:
    """Run all evaluations, or resume them from the folder `work`; return a row for each.

    Raises:
        EvaluationError: another process is writing one of them.
    """
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for evaluation in evaluations:
        print(f"evaluate {evaluation.name}", file=sys.stderr, flush=True)
        out = work / f"{evaluation.name}.json"
        control = linear_probe if evaluation.setting.name == PROBE else measured
        rows.append(row_of(evaluation, run_plan(evaluation.plan, out, measure=control)))
    return rows


def command(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Make the command line of a study."""
    return argparse.ArgumentParser(
        prog=f"python -m studies.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_options(parser: argparse.ArgumentParser, work: Path) -> None:
    """Add the options of every study that evaluates."""
    add, shapes = parser.add_argument, ["5x1", "5x5", "20x1"]
    add("--data", type=Path, required=True, help="npz, or folder of classes")
    add("--split", help="part of the data set (val if there is one, else all)")
    add("--shapes", nargs="+", default=shapes, metavar="WAYSxSHOTS", help="episodes (%(default)s)")
    add("--queries", type=int, default=5, metavar="N", help="queries of a class (%(default)s)")
    add("--scale", type=float, default=1.0, help="factor of all episode counts (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the episodes (%(default)s)")
    add("--together", type=int, default=16, help="episodes in one stack (%(default)s)")
    add("--work", type=Path, default=work, help="folder of the evaluations (%(default)s)")


def run(topic: str, out: Path, study: Callable[[], list[Row]], tables: Tables) -> int:
    """Run a study, write its JSON and print its tables; return the exit code."""
    torch.set_num_threads(1)
    machine = facts()
    try:
        rows = study()
    except MetanasError as error:
        return refused(error)
    publish(Results(topic, machine, rows), out, tables)
    return 0


def refused(error: MetanasError) -> int:
    """Print an error of the input; return the exit code."""
    print(f"error: {error} [{error.reason}]", file=sys.stderr)
    return 2
