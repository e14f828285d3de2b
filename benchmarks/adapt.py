"""Measure time, memory and work of an adaptation, stage by stage, beside the textbook's.

The product goes from encoded images to a checked ONNX file; its stages are those of the model's
report. The textbook (tests/core/textbook.py) takes the same task-optimizer steps as the papers
write them: a module call for every operation and edge, a step on the alphas and one on the weights.
Both get the same support sets, a new one each round. The textbook has no trunk, and it is left out
where it needs more than 10 GB.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median
from time import perf_counter

import torch

import metanas
from benchmarks.harness.machine import peak, status
from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.roofline import least_seconds, rates, work_of
from benchmarks.harness.tables import figure, label, mebibytes, milliseconds, table
from benchmarks.harness.timing import in_turns, ratio, seconds
from benchmarks.harness.workloads import Workload, checkpoint_of, examples_of, task_of
from metanas.adaptation.adaptation import Adaptation, Stage, advance
from metanas.checkpoint import Checkpoint
from metanas.spec.options import AdaptConfig
from tests.core.textbook import textbook_adapt

TOPIC = "adapt"
TASKS = ((5, 1), (5, 5), (20, 1), (20, 5))
NETWORKS = (("shipped", 28, 1), ("photos", 224, 3), ("paper", 28, 1), ("paper", 84, 3))
WORKLOADS = [
    Workload(network=network, ways=ways, shots=shots, size=size, channels=channels)
    for network, size, channels in NETWORKS
    for ways, shots in TASKS
]
STAGES = ("decode", "adapt", "prune", "tune", "export", "check", "report", "whole")


def product(
    checkpoint: Checkpoint, workload: Workload, config: AdaptConfig, episode: int
) -> dict[str, float]:
    """Adapt from encoded images to the checked file; return the seconds of each stage."""
    examples = examples_of(workload, episode)
    start = perf_counter()
    model = metanas.adapt(checkpoint, examples, options=config, seed=episode)
    return {**model.report.seconds, "whole": perf_counter() - start}


def textbook(
    checkpoint: Checkpoint, workload: Workload, config: AdaptConfig, episode: int
) -> dict[str, float]:
    """Take the textbook's search steps; return their seconds."""
    return {"adapt": seconds(textbook_search(checkpoint, workload, config))}


def product_search(
    checkpoint: Checkpoint, workload: Workload, config: AdaptConfig
) -> Callable[[], None]:
    """Decode a support set; return a call that takes the product's search steps."""
    support = task_of(checkpoint, workload, 0).support
    adaptation = Adaptation(checkpoint, support, config, torch.Generator().manual_seed(0))

    def search() -> None:
        while adaptation.stage is Stage.ADAPT:
            advance([adaptation])

    return search


def textbook_search(
    checkpoint: Checkpoint, workload: Workload, config: AdaptConfig, episode: int = 0
) -> Callable[[], object]:
    """Decode a support set; return a call that takes the textbook's search steps."""
    support = task_of(checkpoint, workload, episode).support
    generator = torch.Generator().manual_seed(episode)
    return partial(textbook_adapt, checkpoint, support, config, generator)


CANDIDATES = {"product": product, "textbook": textbook}
SEARCHES: Mapping[str, Callable[[Checkpoint, Workload, AdaptConfig], Callable[[], object]]] = {
    "steps": product_search,
    "textbook": textbook_search,
}


def memory_of(name: str, workload: Workload, config: AdaptConfig, threads: int) -> dict[str, int]:
    """Measure the bytes resident before and at most during an adaptation, in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_memory, name, workload, config, threads).result()


def _memory(name: str, workload: Workload, config: AdaptConfig, threads: int) -> dict[str, int]:
    torch.set_num_threads(threads)
    checkpoint = checkpoint_of(workload)
    before = status()["VmRSS"]
    CANDIDATES[name](checkpoint, workload, config, 0)
    return {"before": before, "peak": peak()}


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each workload and number of threads."""
    rows = []
    machine["rates"] = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        machine["rates"][str(threads)] = rates()
        for workload in (each for each in WORKLOADS if selected(each.name, options.only)):
            rows.append(_measured(workload, threads, options))
            print(f"{workload.name}, {threads} threads: done", file=sys.stderr, flush=True)
    return rows


def _measured(workload: Workload, threads: int, options: argparse.Namespace) -> Row:
    checkpoint = checkpoint_of(workload)
    config = checkpoint.card.defaults.replace({"patience": 0})  # the same number of steps for both
    if options.steps is not None:
        config = config.replace({"steps": options.steps})
    names, searches = ["product"], ["steps"]
    fits = workload.size < 84 or workload.ways * workload.shots <= 5  # else 28 GB
    if fits and checkpoint.trunk is None:
        names.append("textbook")
        searches.append("textbook")
    calls = {name: partial(CANDIDATES[name], checkpoint, workload, config) for name in names}
    runs = in_turns(calls, options.runs, options.budget)
    return {
        "case": workload.name,
        "title": workload.title,
        "threads": threads,
        "steps": config.steps,
        "seconds": {
            name: {stage: [each[stage] for each in of_one] for stage in of_one[0]}
            for name, of_one in runs.items()
        },
        "work": {name: _work_of_step(name, checkpoint, workload, config) for name in searches},
        "memory": {name: memory_of(name, workload, config, threads) for name in names},
    }


def _work_of_step(
    name: str, checkpoint: Checkpoint, workload: Workload, config: AdaptConfig
) -> dict[str, float]:
    """Count kernels, FLOP and bytes of a step, the mean over the steps of the search."""
    work = work_of(SEARCHES[name](checkpoint, workload, config))
    return {key: value / max(1, config.steps) for key, value in work.items()}


def tables(results: Results) -> dict[str, str]:
    """Make the tables of stages, steps and memory."""
    return {
        "stages": _stages(results.rows),
        "steps": _steps(results),
        "memory": _memory_table(results.rows),
    }


def _stages(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        runs = row["seconds"]["product"]
        lines.append([label(row), *milliseconds(*(median(runs[stage]) for stage in STAGES))])
    return table(["milliseconds, medians", *STAGES], lines)


def _steps(results: Results) -> str:
    header = [
        "one step", "textbook ms", "product ms", "times faster", "95 %",
        "textbook GFLOP", "GFLOP", "GB", "kernels", "limit ms", "limit/product",
    ]  # fmt: skip
    speeds = results.machine["rates"]
    return table(header, [_step(row, speeds[str(row["threads"])]) for row in results.rows])


def _step(row: Row, speed: Mapping[str, float]) -> list[str]:
    steps, work = max(1, row["steps"]), row["work"]["steps"]
    ours = row["seconds"]["product"]["adapt"]
    limit = least_seconds(work, speed)
    slow, faster, interval, theirs_flops = ["–"] * 4
    if "textbook" in row["seconds"]:
        theirs = row["seconds"]["textbook"]["adapt"]
        times = ratio(theirs, ours)
        (slow,) = milliseconds(median(theirs) / steps)
        faster, interval = figure(times.value), f"{figure(times.low)}–{figure(times.high)}"
        theirs_flops = figure(row["work"]["textbook"]["flops"] / 1e9)
    return [
        label(row),
        slow,
        *milliseconds(median(ours) / steps),
        faster,
        interval,
        theirs_flops,
        figure(work["flops"] / 1e9),
        figure(work["bytes"] / 1e9),
        f"{work['kernels']:,.0f}",
        *milliseconds(limit),
        f"{limit * steps / median(ours):.0%}",
    ]


def _memory_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        memory = row["memory"]
        added = [
            mebibytes(memory[name]["peak"] - memory[name]["before"]) if name in memory else "–"
            for name in ("textbook", "product")
        ]
        lines.append([label(row), *added, mebibytes(memory["product"]["peak"])])
    return table(["MiB", "textbook adds", "product adds", "product, whole process"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    made.add_argument("--steps", type=int, help="task-optimizer steps (the checkpoint's default)")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.steps, options.threads = 2, 1, [1]
        options.only = options.only or ["shipped-28-5w1s"]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
