"""Does it pay? Settings, relaxations and meta-learners on the same episodes, compared pairwise.

    python -m benchmarks.study --data omniglot_28.npz
    python -m benchmarks.page benchmarks/results/study/*.json

The first command evaluates, keeps every episode in the folder --work and goes on where it was
interrupted; started twice, it shares the work. The second writes docs/results.md.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.progress import Progress, TaskID

from benchmarks._answers import answers
from benchmarks._cells import draw_cells
from benchmarks._machine import ROOT, facts
from benchmarks._plans import BOTH, PROBE, STEPS, Setting, settings_of, settings_of_others
from benchmarks._probe import probed
from benchmarks._results import LOCAL, Results, Row, load, machine_line, save
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.episodes import Classes
from metanas.errors import EvaluationError, InvalidInput, MetanasError
from metanas.evaluate import EpisodeShape, draw
from metanas.evaluating import classes_for
from metanas.journal import Record
from metanas.recorded import Plan, measured, run_plan
from metanas.screen import bar

TOPIC = "study"
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
    "embedding": "embedding",
}
"""Column of a row -> figure of a record."""


def row_of(group: str, label: str, plan: Plan, setting: Setting, records: list[Record]) -> Row:
    """An evaluation as the study stores it: a column a figure, each genotype once."""
    genotypes = [record["genotype"] for record in records if "genotype" in record]
    kinds = [g for i, g in enumerate(genotypes) if g not in genotypes[:i]]
    columns = {
        name: [record[figure] for record in records]
        for name, figure in COLUMNS.items()
        if records[0].get(figure) is not None
    }
    return {
        "group": group,
        "checkpoint": label,
        "setting": setting.name,
        "shape": setting.shape,
        "options": plan.options.to_dict(),
        "data": f"{plan.dataset}, split {plan.split}",
        "classes": len(plan.classes),
        "seed": plan.seed,
        "queries": plan.shape.queries,
        **columns,
        "genotypes": kinds,
        "genotype": [kinds.index(genotype) for genotype in genotypes],
    }


def measure(options: argparse.Namespace, shown: Progress) -> tuple[list[Row], list[str]]:
    """The rows of all evaluations, and those that another process is at."""
    rows, busy = [], []
    for group, label, plan, setting in _plans(options):
        name = f"{group or 'main'}-{label}-{setting.shape}-{setting.name}"
        task = shown.add_task("evaluate", total=plan.episodes, seen=name)
        try:
            records = run_plan(
                plan,
                options.work / f"{name}.json",
                measure=probed if setting.name == PROBE else measured,
                on_episode=partial(_advance, shown, task),
            )
        except EvaluationError as error:
            if error.reason != "EVALUATION_BUSY":
                raise
            busy.append(name)
        else:
            rows.append(row_of(group, label, plan, setting, records))
        shown.remove_task(task)
    return rows, busy


def _advance(shown: Progress, task: TaskID, done: int) -> None:
    shown.update(task, completed=done)


def _plans(options: argparse.Namespace) -> list[tuple[str, str, Plan, Setting]]:
    """All evaluations, each with its table ("" for the main ones) and the checkpoint's name.

    All at once: what is wrong with one of them shows before the first is begun.
    """
    named = [("", options.checkpoint.name, options.checkpoint)]
    named += [("relaxations", *_named(entry)) for entry in options.relaxations]
    named += [("learners", *_named(entry)) for entry in options.learners]
    found = []
    for group, label, folder in named:
        checkpoint = load_checkpoint(folder)
        data = classes_for(checkpoint, options.data, options.split)
        defaults = checkpoint.card.defaults
        settings = (
            settings_of_others(options.shapes, defaults)
            if group
            else settings_of(options.shapes, options.steps, defaults)
        )
        for setting in settings:
            plan = _plan(options, checkpoint, data, setting)
            draw(plan.classes, plan.shape, plan.seed, 0)
            found.append((group, label, plan, setting))
    return found


def _named(entry: str) -> tuple[str, Path]:
    name, _, folder = entry.partition("=")
    if not (name and folder) or Path(name).name != name:
        message = f"{entry!r} is not NAME=FOLDER of a checkpoint"
        raise InvalidInput.single("--relaxations, --learners", "OPTION_OUT_OF_RANGE", message)
    return name, Path(folder)


def _plan(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    data: tuple[str | None, Classes],
    setting: Setting,
) -> Plan:
    split, classes = data
    return Plan(
        checkpoint=checkpoint,
        dataset=options.data.name,
        split=split,
        classes=classes,
        shape=_shape(setting.shape),
        episodes=max(2, round(setting.episodes * options.scale)),
        seed=options.seed,
        options=checkpoint.card.defaults.replace(setting.overrides),
        together=options.together,
        transductive=setting.transductive,
        reseed=setting.reseed,
    )


def _shape(text: str) -> EpisodeShape:
    ways, _, shots = text.partition("x")
    if not (ways.isdecimal() and shots.isdecimal() and int(ways) > 1 and int(shots) > 0):
        message = f"{text!r} is not WAYSxSHOTS, such as 5x1"
        raise InvalidInput.single("--shapes", "OPTION_OUT_OF_RANGE", message)
    return EpisodeShape(ways=int(ways), shots=int(shots), queries=QUERIES)


def tables(results: Results) -> Mapping[str, str]:
    """All that the page gets, tables and sentences."""
    return answers(results)


def picture(results: Results, path: Path) -> None:
    """Draw the picture of cells and tasks, if both were measured."""
    main = [row for row in results.rows if not row["group"]]
    rows = {row["setting"]: row for row in main if row["shape"] == main[0]["shape"]}
    if BOTH in rows and PROBE in rows:
        draw_cells(rows[BOTH], rows[PROBE], path)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{TOPIC}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--data", type=Path, required=True, help="npz, or folder of classes")
    add("--split", help="part of the data set (val if there is one, else all)")
    shipped = ROOT / "meta_checkpoints" / "omniglot"
    add("--checkpoint", type=Path, default=shipped, help="what the study is about (%(default)s)")
    for group in ("relaxations", "learners"):
        what = f"checkpoints that differ in their {group}, as NAME=FOLDER; the first is the control"
        add(f"--{group}", nargs="+", default=[], metavar="NAME=FOLDER", help=what)
    shapes = ["5x1", "5x5", "20x1"]
    add("--shapes", nargs="+", default=shapes, metavar="WAYSxSHOTS", help="episodes (%(default)s)")
    add("--steps", type=int, nargs="+", default=list(STEPS), metavar="N", help="%(default)s")
    add("--scale", type=float, default=1.0, help="of all numbers of episodes (%(default)s)")
    add("--seed", type=int, default=0, help="of the episodes (%(default)s)")
    add("--together", type=int, default=16, help="episodes in one stack (%(default)s)")
    add("--work", type=Path, default=LOCAL / TOPIC, help="every evaluation (%(default)s)")
    out = LOCAL.parent / TOPIC / "omniglot.json"
    add("--out", type=Path, default=out, help="what the page is made of (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    machine = facts()
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        with bar() as shown:
            rows, busy = measure(options, shown)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    if busy:
        print(f"another process is at {', '.join(busy)}; run this again when it is done")
        return 3
    save(Results(TOPIC, machine, rows), options.out)
    results = load(options.out)
    print("\n\n".join([machine_line(results), *tables(results).values()]))
    print(f"\nevery episode: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
