"""Many adaptations in one process, stacked by one scheduler, against one after the other.

All jobs are there from the start. Their tasks have the same ways and shots, or, `mixed`, several in
turns. At least one task of each kind is done: with fewer jobs in stacks one after the other.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import torch

from benchmarks._cases import Case, checkpoint_of, examples_of
from benchmarks._measure import in_turns, spread
from benchmarks._results import (
    Results,
    Row,
    figure,
    finish,
    label,
    milliseconds,
    parser,
    started,
    table,
    wanted,
)
from metanas.adaptation.job import Job
from metanas.adaptation.scheduler import Scheduler
from metanas.checkpoint import Checkpoint

TOPIC = "together"
JOBS = (1, 2, 4, 8, 16, 32, 64)
KINDS = {
    "shipped 5-way 1-shot": ((5, 1),),
    "shipped 20-way 1-shot": ((20, 1),),
    "shipped mixed, 5 to 20 ways, 1 or 5 shots": ((5, 1), (20, 1), (5, 5), (10, 5)),
}


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for every kind of task, number of jobs, and number of threads."""
    rows: list[Row] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for kind in (kind for kind in KINDS if wanted(kind, options.only)):
            for jobs in options.jobs:
                ends = _measured(kind, jobs, options)
                rows.append({"title": kind, "jobs": jobs, "threads": threads, "ends": ends})
    return rows


def _measured(kind: str, jobs: int, options: argparse.Namespace) -> list[list[float]]:
    cases = [Case(network="shipped", ways=ways, shots=shots) for ways, shots in KINDS[kind]]
    checkpoint = checkpoint_of(cases[0])
    runs = {"": partial(_run, checkpoint, cases, jobs)}
    return in_turns(runs, options.runs, options.budget)[""]


def _run(checkpoint: Checkpoint, cases: Sequence[Case], jobs: int, episode: int) -> list[float]:
    """Seconds from the start to the end of each job, in the order in which they end."""
    tasks = max(jobs, len(cases))
    seeds = range(episode * tasks, (episode + 1) * tasks)
    given = [
        (examples_of(cases[index % len(cases)], seed), seed) for index, seed in enumerate(seeds)
    ]
    ends: list[float] = []
    start = perf_counter()
    for first in range(0, tasks, jobs):
        bench = Scheduler()
        for examples, seed in given[first : first + jobs]:
            bench.add(Job(checkpoint, examples, seed=seed))
        while bench:
            for job in bench.advance():
                job.result()
                ends.append(perf_counter() - start)
    return ends


def tables(results: Results) -> dict[str, str]:
    """The table of one run."""
    header = ["jobs together", "all done, ms", "25 %", "75 %", "adaptations/s", "against one"]
    header += ["first done, ms", "runs"]
    alone: dict[str, float] = {}
    lines = []
    for row in results.rows:
        whole = spread([ends[-1] for ends in row["ends"]])
        first = spread([ends[0] for ends in row["ends"]])
        rate = len(row["ends"][0]) / whole.median
        times = figure(rate / alone.setdefault(label(row), rate))
        figures = map(milliseconds, [whole.median, *whole.quartiles])
        ends = [milliseconds(first.median), str(whole.runs)]
        lines.append([f"{label(row)}, {row['jobs']}", *figures, figure(rate), times, *ends])
    return {"together": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=7)
    made.add_argument("--jobs", type=int, nargs="+", default=list(JOBS), metavar="N")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.threads, options.jobs = 1, [1], [1, 2]
        options.only = options.only or ["5-way"]
    finish(TOPIC, options, started(options), measure(options), tables)


if __name__ == "__main__":
    main()
