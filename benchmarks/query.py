"""Measure latency and throughput of adapted models in ONNX Runtime, by batch size and threads.

The model is the result of an adaptation: preprocessing included, any number of images a call.
Images have the size of the network's input, uint8.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

import metanas
from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, label, milliseconds, table
from benchmarks.harness.timing import in_turns, seconds, spread
from benchmarks.harness.workloads import Workload, checkpoint_of, examples_of
from metanas.adaptation.job import AdaptedModel

TOPIC = "query"
WORKLOADS = (
    Workload(network="shipped", ways=5, shots=1),
    Workload(network="photos", ways=5, shots=1, size=224, channels=3),
    Workload(network="paper", ways=5, shots=1),
    Workload(network="paper", ways=5, shots=1, size=84, channels=3),
)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHOWN = (1, 8, 64, 256)
"""Batches in the table; a run of other batches alone shows them all."""


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each workload, number of threads and batch size."""
    rows = []
    for workload in (each for each in WORKLOADS if selected(each.name, options.only)):
        model = metanas.adapt(checkpoint_of(workload), examples_of(workload, 0))
        for threads in options.threads:
            rows += _measured(workload, model, threads, options)
    return rows


def _measured(
    workload: Workload, model: AdaptedModel, threads: int, options: argparse.Namespace
) -> list[Row]:
    settings = ort.SessionOptions()  # ONNX Runtime's defaults, but for the threads
    settings.intra_op_num_threads = threads
    session = ort.InferenceSession(model.onnx, settings, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    shape = (workload.size, workload.size, workload.channels)
    images = random.integers(0, 256, (max(options.batches), *shape), dtype=np.uint8)
    calls = {str(size): partial(_timed, session, images[:size]) for size in options.batches}
    return [
        {
            "case": workload.name,
            "title": workload.title,
            "threads": threads,
            "batch": int(size),
            "macs": model.report.macs,
            "seconds": runs,
        }
        for size, runs in in_turns(calls, options.runs, options.budget).items()
    ]


def _timed(session: ort.InferenceSession, images: NDArray[np.uint8], _: int) -> float:
    call: Callable[[], object] = partial(session.run, None, {"images": images})
    call()  # the memory plan of a batch size is made at its first call
    return seconds(call)


def tables(results: Results) -> dict[str, str]:
    """Make the table of latencies and rates by batch size."""
    header = ["model", "batch", "median ms", "25 %", "75 %", "images/s", "GFLOP/s"]
    lines = []
    for row in [row for row in results.rows if row["batch"] in SHOWN] or results.rows:
        took, batch = spread(row["seconds"]), row["batch"]
        times = milliseconds(took.median, *took.quartiles)
        rates = [batch / took.median, 2 * row["macs"] * batch / took.median / 1e9]
        lines.append([label(row), str(batch), *times, *map(figure, rates)])
    return {"query": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=50)
    made.set_defaults(threads=[1, 2])
    made.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), metavar="N")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.threads, options.batches = 3, [1], [1, 4]
        options.only = options.only or ["shipped"]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
