"""Latency and throughput of adapted models in ONNX Runtime, by batch size and threads.

The model is what an adaptation returns: preprocessing included, any number of images a call. Images
come in the size that the network wants, uint8.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks._cases import Case, checkpoint_of, examples_of
from benchmarks._measure import in_turns, seconds, spread
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
from metanas.adaptation.job import AdaptedModel
from metanas.adaptation.scheduler import adapt

TOPIC = "query"
CASES = (
    Case(network="shipped", ways=5, shots=1),
    Case(network="photos", ways=5, shots=1, size=128, channels=3),
    Case(network="paper", ways=5, shots=1),
    Case(network="paper", ways=5, shots=1, size=84, channels=3),
)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHOWN = (1, 8, 64, 256)
"""Batches in the table; a run of other batches alone shows them all."""


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for every case, number of threads and batch size."""
    rows = []
    for case in (case for case in CASES if wanted(case.name, options.only)):
        model = adapt(checkpoint_of(case), examples_of(case, 0))
        for threads in options.threads:
            rows += _measured(case, model, threads, options)
    return rows


def _measured(
    case: Case, model: AdaptedModel, threads: int, options: argparse.Namespace
) -> list[Row]:
    session = opened(model.onnx, threads)
    random = np.random.default_rng(0)
    shape = (case.size, case.size, case.channels)
    images = random.integers(0, 256, (max(options.batches), *shape), dtype=np.uint8)
    calls = {str(size): partial(_timed, session, images[:size]) for size in options.batches}
    return [
        {
            "case": case.name,
            "title": case.title,
            "threads": threads,
            "batch": int(size),
            "macs": model.report.macs,
            "seconds": runs,
        }
        for size, runs in in_turns(calls, options.runs, options.budget).items()
    ]


def opened(model: bytes, threads: int) -> ort.InferenceSession:
    """A session with ONNX Runtime's own settings, as a user opens one, but for the threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _timed(session: ort.InferenceSession, images: NDArray[np.uint8], _: int) -> float:
    run: Callable[[], object] = partial(session.run, None, {"images": images})
    run()  # the memory plan of a batch size is made at its first call
    return seconds(run)


def tables(results: Results) -> dict[str, str]:
    """The table of one run."""
    header = ["model", "batch", "median ms", "25 %", "75 %", "images/s", "GFLOP/s"]
    lines = []
    for row in [row for row in results.rows if row["batch"] in SHOWN] or results.rows:
        took, batch = spread(row["seconds"]), row["batch"]
        lines.append(
            [
                label(row),
                str(batch),
                milliseconds(took.median),
                *(milliseconds(value) for value in took.quartiles),
                figure(batch / took.median),
                figure(2 * row["macs"] * batch / took.median / 1e9),
            ]
        )
    return {"query": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=50)
    made.set_defaults(threads=[1, 2])
    made.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), metavar="N")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.threads, options.batches = 3, [1], [1, 4]
        options.only = options.only or ["shipped"]
    finish(TOPIC, options, started(options), measure(options), tables)


if __name__ == "__main__":
    main()
