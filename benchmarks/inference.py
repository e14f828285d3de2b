"""Measure queries to a server by the Open Inference Protocol, over loopback, from one caller.

- `latency`: one image a query to an open model.
- `throughput`: a batch a query, beside one call of ONNX Runtime with the same batch, in turns.
- `rotation`: one image a query to each of many models in turn, where the server keeps some of them
  open, so that each query opens its model; and the memory of the server after each round.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import grpc
import numpy as np

from benchmarks.harness.results import Results, Row, parser, run
from benchmarks.harness.tables import figure, mebibytes, milliseconds, table
from benchmarks.harness.timing import in_turns, ratio, seconds, spread
from benchmarks.harness.workloads import SHIPPED, Workload
from benchmarks.server import serving, support_of
from metanas.export.runtime import session
from metanas_client import Client, Model
from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.inference import inference_service_pb2_grpc as stubs

TOPIC = "inference"
WORKLOAD = Workload(network="shipped", ways=2, shots=1)
BATCH = 64
MODEL_BYTES = 47 * 2**20 // 20
"""Memory of an open model of `WORKLOAD`, as the server counts it."""
TOGETHER = 16
"""Adaptations that run at once while the models are made."""


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for latency and throughput, and one for each round of the rotation."""
    kept = f"--max-open-bytes={options.kept * MODEL_BYTES}"
    with (
        serving(1, "--devices=cpu", "--query-threads=1", kept) as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        models = _models(client, options.models)
        stub = stubs.GRPCInferenceServiceStub(channel)

        def query(index: int, images: int = 1) -> float:
            return seconds(partial(stub.ModelInfer, _request(models[index].name, images)))

        rows: list[Row] = [
            {"case": "latency", "seconds": [query(0) for _ in range(options.runs)][1:]}
        ]
        batches = {"server": lambda _: query(0, BATCH), "bare": _bare(models[0])}
        rows.append({"case": "throughput", **in_turns(batches, options.runs // 10)})
        for number in range(options.rounds):
            times = [query(index) for index in range(len(models))]
            rows.append({"case": "rotation", "round": number, "seconds": times, **server.memory()})
    return rows


def _models(client: Client, count: int) -> list[Model]:
    """Make models of one task, without steps; their seeds make the files differ."""
    support, models = support_of(WORKLOAD, 0), list[Model]()
    while len(models) < count:
        seeds = range(len(models), min(count, len(models) + TOGETHER))
        started = [
            client.adapt(
                support,
                checkpoint=SHIPPED[WORKLOAD.network],
                seed=seed,
                options={"steps": 0, "tuning_steps": 0},
            )
            for seed in seeds
        ]
        models += [each.result() for each in started]
    return models


def _request(name: str, images: int) -> protocol.ModelInferRequest:
    shape = (images, WORKLOAD.size, WORKLOAD.size, WORKLOAD.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tensor = protocol.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=shape
    )
    return protocol.ModelInferRequest(
        model_name=name, inputs=[tensor], raw_input_contents=[pixels.tobytes()]
    )


def _bare(model: Model) -> Callable[[int], float]:
    """Time one call of ONNX Runtime, with one thread as in the server."""
    request, opened = _request("", BATCH), session(model.onnx)
    shape = tuple(request.inputs[0].shape)
    images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(shape)
    return lambda _: seconds(partial(opened.run, None, {"images": images}))


def tables(results: Results) -> dict[str, str]:
    """Make the tables of the latency, of the throughput and of the rotation."""
    latency, throughput, *rounds = results.rows
    header = ["milliseconds", "median", "25 %", "75 %", "99 %", "most", "queries"]
    named = [("one image, 28×28, the model is open", latency)]
    named += [(f"each of {len(row['seconds'])} models in turn", row) for row in rounds[-1:]]
    served = ratio(throughput["bare"], throughput["server"])
    share = f"{100 * served.value:.0f}% ({100 * served.low:.0f}–{100 * served.high:.0f})"
    rates = [figure(BATCH / spread(throughput[name]).median) for name in ("server", "bare")]
    return {
        "latency": table(header, [[name, *_times(row["seconds"])] for name, row in named]),
        "throughput": table(
            [f"{BATCH} images a query", "server, images/s", "ONNX Runtime, images/s", "share"],
            [["28×28, 1 thread", *rates, share]],
        ),
        "rotation": table(
            ["round", "front, MiB"],
            [[str(row["round"] + 1), mebibytes(row["front"])] for row in rounds],
        ),
    }


def _times(values: Sequence[float]) -> list[str]:
    took, late = spread(values), float(np.quantile(values, 0.99))
    return [*milliseconds(took.median, *took.quartiles, late, took.most), str(took.runs)]


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=2000)
    made.add_argument("--models", type=int, default=1000, metavar="N", help="%(default)s")
    made.add_argument("--kept", type=int, default=100, metavar="N", help="models that stay open")
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="%(default)s")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.models, options.kept, options.rounds = 30, 4, 2, 2
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
