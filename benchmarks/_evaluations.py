"""Evaluations of checkpoints as studies store them: each in a journal, resumed where it stopped."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.progress import Progress, TaskID

from benchmarks._plans import PROBE, Setting
from benchmarks._probe import probed
from benchmarks._results import Row
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput
from metanas.evaluation.resume import Plan, measured, run_plan
from metanas_data.datasets.dataset import Dataset
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.errors import EvaluationError
from metanas_data.journal import Record

QUERIES = 5
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
class Evaluation:
    """A checkpoint in one setting."""

    label: str
    """The checkpoint's name in tables."""
    plan: Plan
    setting: Setting

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.label}-{self.setting.shape}-{self.setting.name}"


def planned(
    label: str,
    checkpoint: Checkpoint,
    data: Dataset,
    setting: Setting,
    options: argparse.Namespace,
) -> Evaluation:
    """An evaluation, on as many episodes as the options (of `add_options`) say.

    Raises:
        InvalidInput: the shape is none.
        DatasetError: the data set cannot give such episodes.
    """
    plan = Plan(
        checkpoint=checkpoint,
        sampler=Sampler(data, shape_of(setting.shape), options.seed),
        episodes=max(2, round(setting.episodes * options.scale)),
        options=checkpoint.card.defaults.replace(setting.overrides),
        together=options.together,
        transductive=setting.transductive,
    )
    return Evaluation(label=label, plan=plan, setting=setting)


def shape_of(text: str) -> EpisodeShape:
    """The shape that WAYSxSHOTS means.

    Raises:
        InvalidInput: it is not of that form.
    """
    ways, _, shots = text.partition("x")
    if not (ways.isdecimal() and shots.isdecimal() and int(ways) > 1 and int(shots) > 0):
        message = f"{text!r} is not WAYSxSHOTS, such as 5x1"
        raise InvalidInput.single("--shapes", "OPTION_OUT_OF_RANGE", message)
    return EpisodeShape(ways=int(ways), shots=int(shots), queries=QUERIES)


def row_of(evaluation: Evaluation, records: list[Record]) -> Row:
    """An evaluation as a study stores it: a column a figure, each genotype once."""
    plan, setting = evaluation.plan, evaluation.setting
    sampler = plan.sampler
    genotypes = [record["genotype"] for record in records if "genotype" in record]
    kinds = [g for i, g in enumerate(genotypes) if g not in genotypes[:i]]
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
        "genotypes": kinds,
        "genotype": [kinds.index(genotype) for genotype in genotypes],
    }


def measure(
    evaluations: Sequence[Evaluation], work: Path, shown: Progress
) -> tuple[list[Row], list[str]]:
    """The rows of all evaluations, and those that another process is at."""
    work.mkdir(parents=True, exist_ok=True)
    rows, busy = [], []
    for evaluation in evaluations:
        name = evaluation.name
        task = shown.add_task("evaluate", total=evaluation.plan.episodes, seen=name)
        try:
            records = run_plan(
                evaluation.plan,
                work / f"{name}.json",
                measure=probed if evaluation.setting.name == PROBE else measured,
                on_episode=partial(_advance, shown, task),
            )
        except EvaluationError as error:
            if error.reason != "EVALUATION_BUSY":
                raise
            busy.append(name)
        else:
            rows.append(row_of(evaluation, records))
        shown.remove_task(task)
    return rows, busy


def _advance(shown: Progress, task: TaskID, done: int) -> None:
    shown.update(task, completed=done)


def add_options(parser: argparse.ArgumentParser, work: Path) -> None:
    """Give a command line what every study asks for."""
    add, shapes = parser.add_argument, ["5x1", "5x5", "20x1"]
    add("--data", type=Path, required=True, help="npz, or folder of classes")
    add("--split", help="part of the data set (val if there is one, else all)")
    add("--shapes", nargs="+", default=shapes, metavar="WAYSxSHOTS", help="episodes (%(default)s)")
    add("--scale", type=float, default=1.0, help="of all numbers of episodes (%(default)s)")
    add("--seed", type=int, default=0, help="of the episodes (%(default)s)")
    add("--together", type=int, default=16, help="episodes in one stack (%(default)s)")
    add("--work", type=Path, default=work, help="every evaluation (%(default)s)")
