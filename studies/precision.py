"""Compare files with weights in half precision and in 8 bits with the files they are made of.

    python -m studies.precision meta_checkpoints --data FOLDER --out FILE.json

Each checkpoint adapts to tasks of one kind of images. All files of a task answer its queries. The
evaluations are in the folder --work and resume from there.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import table
from metanas.adaptation.assemble import calibration_images, joint_of
from metanas.adaptation.scheduler import make_all
from metanas.checkpoint import load_checkpoint
from metanas.errors import InvalidInput
from metanas.evaluation.evaluate import job_of, queries_of
from metanas.evaluation.resume import Plan, run_plan
from metanas.export.agreement import answers
from metanas.export.runtime import session
from metanas.export.variants import convert
from metanas.spec.variant import Variant
from metanas_data.datasets.dataset import read_dataset
from metanas_data.evaluations import column
from metanas_data.intervals import mean_of
from metanas_data.journal import Record
from studies.domains import sampler_of
from studies.evaluations import LOCAL, command, run
from studies.intervals import points

TOPIC = "precision"
KINDS = ("omniglot=omniglot_28", "drawn=icons_96", "photos=caltech101_224")
"""Checkpoints, each with the data set of its tasks."""
PRECISIONS = ("fp16", "int8")


def measured(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Adapt to episodes, convert the files, and let all files answer the queries."""
    for index in episodes:
        episode = plan.sampler.episode(index)
        job = job_of(plan.checkpoint, episode, plan.options)
        make_all([job])
        stored = job.result().onnx
        assert job.adaptation is not None
        assert job.task is not None
        calibration = calibration_images(joint_of(job.adaptation, job.task), index)
        opened = session(stored)
        queries, labels = queries_of(episode, opened.get_inputs()[0].shape[3])
        images = [*calibration, *queries]
        reference = answers(opened, images)
        right = reference.logits[len(calibration) :].argmax(1) == labels
        record: dict[str, Any] = {
            "episode": index,
            "accuracy": float(right.mean()),
            "bytes": len(stored),
        }
        for precision in PRECISIONS:
            try:
                made = convert(stored, Variant(precision=precision), calibration)
            except InvalidInput as error:
                figures: Record = {"refused": str(error)}
            else:
                found = answers(session(made), images)
                right = found.logits[len(calibration) :].argmax(1) == labels
                known = [(each.known < 0.5)[len(calibration) :] for each in (reference, found)]
                changed = float((known[0] != known[1]).mean())
                figures = {"accuracy": float(right.mean()), "bytes": len(made), "known": changed}
            record[precision] = figures
        yield record


def tables(results: Results) -> Mapping[str, str]:
    """Make the table: a checkpoint a line, and all tasks."""
    header = ["checkpoint, tasks", "KB: float32, fp16, int8", "fp16, points", "int8, points"]
    header += ["refused, %: fp16, int8", "`known` changes side, % of queries"]
    lines, every = list[list[str]](), list[Record]()
    for name in dict.fromkeys(row["checkpoint"] for row in results.rows):
        records = [each for row in results.rows if row["checkpoint"] == name for each in _of(row)]
        lines.append(_line(name, records))
        every += records
    return {"precision": table(header, [*lines, _line("all", every)])}


def _of(row: Row) -> list[Record]:
    """Return the records of a row, one an episode."""
    names = ("accuracy", "bytes", *PRECISIONS)
    columns = zip(*(row[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns]


def _line(title: str, records: Sequence[Record]) -> list[str]:
    kept = [[each for each in records if "refused" not in each[name]] for name in PRECISIONS]
    made = list(zip(PRECISIONS, kept, strict=True))
    gains = [[each[name]["accuracy"] - each["accuracy"] for each in rows] for name, rows in made]
    sizes = [[each["bytes"] for each in records]]
    sizes += [[each[name]["bytes"] for each in rows] for name, rows in made]
    changes = [[each[name]["known"] for each in rows] for name, rows in made]
    return [
        f"{title}, {len(records)}",
        ", ".join(f"{np.mean(each) / 1000:,.0f}" if each else "none" for each in sizes),
        *(points(mean_of(each)) if each else "none" for each in gains),
        ", ".join(f"{100 * (1 - len(rows) / len(records)):.1f}" for rows in kept),
        ", ".join(f"{100 * np.mean(each):.1f}" if each else "none" for each in changes),
    ]


def _study(options: argparse.Namespace) -> Iterator[Row]:
    options.work.mkdir(parents=True, exist_ok=True)
    for name, pack in (kind.split("=") for kind in options.kinds):
        checkpoint = load_checkpoint(options.checkpoints / name)
        dataset = read_dataset(options.data / f"{pack}.npz")
        for shape in options.shapes:
            sampler = sampler_of(dataset, shape, options.queries, options.seed)
            if sampler is None:
                continue
            defaults = checkpoint.card.defaults
            plan = Plan(
                checkpoint=checkpoint, sampler=sampler, episodes=options.episodes, options=defaults
            )
            print(f"measure {name} {shape}", file=sys.stderr, flush=True)
            records = run_plan(plan, options.work / f"{name}-{shape}.json", measure=measured)
            columns = {key: column(records, key) for key in ("accuracy", "bytes")}
            variants = {key: [each[key] for each in records] for key in PRECISIONS}
            yield {**plan.settings(), **columns, **variants}


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add, count = made.add_argument, partial(made.add_argument, type=int, metavar="N")
    add("checkpoints", type=Path, help="folder of the checkpoints")
    add("--data", type=Path, required=True, help="folder of npz files")
    add("--kinds", nargs="+", default=KINDS, metavar="CHECKPOINT=DATA", help="(%(default)s)")
    add("--shapes", nargs="+", default=["5x1", "5x5"], metavar="WAYSxSHOTS")
    count("--episodes", default=50, help="of a checkpoint and shape (%(default)s)")
    count("--queries", default=15, help="the most of a class (%(default)s)")
    count("--seed", default=0, help="seed of the episodes (%(default)s)")
    add("--work", type=Path, default=LOCAL / TOPIC, help="folder of the evaluations (%(default)s)")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    return run(TOPIC, options.out, lambda: list(_study(options)), tables)


if __name__ == "__main__":
    sys.exit(main())
