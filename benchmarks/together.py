"""Compare many adaptations in one process, stacked by one scheduler, with one after the other.

All jobs are there from the start. Their tasks have the same ways and shots, or, `mixed`, several in
turn. At least one task of each kind is done: with fewer jobs in stacks one after the other.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import torch

from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, label, milliseconds, table
from benchmarks.harness.timing import in_turns, spread
from benchmarks.harness.workloads import Workload, checkpoint_of, examples_of
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


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each number of threads, kind of task and number of jobs."""
    rows: list[Row] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for kind in (kind for kind in KINDS if selected(kind, options.only)):
            workloads = [Workload(network="shipped", ways=w, shots=s) for w, s in KINDS[kind]]
            checkpoint = checkpoint_of(workloads[0])
            for jobs in options.jobs:
                call = partial(stacked, checkpoint, workloads, jobs)
                ends = in_turns({kind: call}, options.runs, options.budget)[kind]
                rows.append({"title": kind, "jobs": jobs, "threads": threads, "ends": ends})
    return rows


def stacked(
    checkpoint: Checkpoint, workloads: Sequence[Workload], jobs: int, episode: int
) -> list[float]:
    """Adapt in stacks of jobs; return the seconds from the start to each end, in order."""
    tasks = max(jobs, len(workloads))
    seeds = range(episode * tasks, (episode + 1) * tasks)
    support_sets = [
        examples_of(workloads[index % len(workloads)], seed) for index, seed in enumerate(seeds)
    ]
    ends: list[float] = []
    start = perf_counter()
    for first in range(0, tasks, jobs):
        scheduler = Scheduler()
        for index in range(first, min(first + jobs, tasks)):
            scheduler.add(Job(checkpoint, support_sets[index], seed=seeds[index]))
        while scheduler:
            for job in scheduler.advance():
                job.result()
                ends.append(perf_counter() - start)
    return ends


def tables(results: Results) -> dict[str, str]:
    """Make the table of rates by number of jobs."""
    header = ["jobs together", "all done, ms", "25 %", "75 %", "adaptations/s", "against one"]
    alone: dict[str, float] = {}
    lines = []
    for row in results.rows:
        whole = spread([ends[-1] for ends in row["ends"]])
        first = spread([ends[0] for ends in row["ends"]])
        rate = len(row["ends"][0]) / whole.median
        times = figure(rate / alone.setdefault(label(row), rate))
        lines.append([
            f"{label(row)}, {row['jobs']}",
            *milliseconds(whole.median, *whole.quartiles),
            figure(rate),
            times,
            *milliseconds(first.median),
            str(whole.runs),
        ])  # fmt: skip
    return {"together": table([*header, "first done, ms", "runs"], lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=7)
    made.add_argument("--jobs", type=int, nargs="+", default=list(JOBS), metavar="N")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.threads, options.jobs = 1, [1], [1, 2]
        options.only = options.only or ["5-way"]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
