"""Measure queries to a server by the Open Inference Protocol, over loopback, from one caller.

- `latency`: one image a query to an open model.
- `throughput`: a batch a query, beside one call of ONNX Runtime with the same batch, in turns.
- `rotation`: one image a query to each of many models in turn, where the server keeps some of them
  open, so that each query opens its model; and the memory of the server after each round.

The models are copies of one adapted model whose files differ in one entry of their metadata.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
import onnx

import metanas
from benchmarks.harness.machine import processor_seconds
from benchmarks.harness.results import Results, Row, parser, run
from benchmarks.harness.tables import figure, mebibytes, milliseconds, table
from benchmarks.harness.timing import in_turns, ratio, seconds, spread
from benchmarks.harness.workloads import Workload, checkpoint_of, examples_of
from benchmarks.server import Server, serving
from metanas.export.runtime import session
from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.inference import inference_service_pb2_grpc as stubs
from metanas_server.records.address import DATABASE, open_database
from metanas_server.records.records import Records
from metanas_server.resources import AdaptationRecord, ModelRecord, State
from metanas_server.storage.folder_store import FolderStore

TOPIC = "inference"
WORKLOAD = Workload(network="shipped", ways=2, shots=1)
BATCH = 64
MODEL_BYTES = 47 * 2**20 // 20
"""Memory of an open model of `WORKLOAD`, as the server counts it."""


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for latency and throughput, and one for each round of the rotation."""
    with TemporaryDirectory() as folder:
        data = Path(folder, "data")
        onnx_bytes = _write_models(data, options.models)
        flags = ["--devices=cpu", "--query-threads=1", f"--data={data}"]
        flags += [f"--max-open-bytes={options.kept * MODEL_BYTES}"]
        with serving(1, *flags) as server:
            return _rows(server, onnx_bytes, options)


def _rows(server: Server, onnx_bytes: bytes, options: argparse.Namespace) -> list[Row]:
    names = [f"models/{number}" for number in range(options.models)]
    with grpc.insecure_channel(server.address) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)

        def query(index: int, images: int = 1) -> float:
            return seconds(partial(stub.ModelInfer, _request(names[index], images)))

        rows: list[Row] = [
            {"case": "latency", "seconds": [query(0) for _ in range(options.runs)][1:]}
        ]
        batches = {"server": lambda _: query(0, BATCH), "bare": _bare(onnx_bytes)}
        rows.append({"case": "throughput", **in_turns(batches, options.runs // 10)})
        for number in range(options.rounds):
            before = processor_seconds([server.front])
            times = [query(index) for index in range(len(names))]
            used = processor_seconds([server.front]) - before
            row = {"round": number, "seconds": times, "processor": used, **server.memory()}
            rows.append({"case": "rotation", **row})
    return rows


def _write_models(data: Path, count: int) -> bytes:
    """Write models into a data folder; return the file of one of them."""
    checkpoint, options = checkpoint_of(WORKLOAD), {"steps": 0, "tuning_steps": 0}
    made = metanas.adapt(checkpoint, examples_of(WORKLOAD, 0), options=options)
    file = onnx.load_model_from_string(made.onnx)
    entry = file.metadata_props.add(key="benchmark", value="")
    labels, store = tuple(made.labels), FolderStore(data / "artefacts")
    with closing(Records(open_database(data / DATABASE))) as records:
        for number in range(count):
            entry.value = str(number)
            copy = file.SerializeToString()
            model = ModelRecord(
                id=str(number), checkpoint="omniglot", sha256=store.put(copy), labels=labels,
                size_bytes=len(copy), genotype_json="{}", report_json="{}", create_time=1,
            )  # fmt: skip
            queued = AdaptationRecord(
                id=model.id, checkpoint=model.checkpoint, overrides={}, seed=0, classes=None,
                labels=labels, example_count=len(labels), support="", request_id="",
                request_digest="", timeout=1, create_time=1,
            )  # fmt: skip
            records.insert(queued)
            ended = replace(queued, state=State.SUCCEEDED, end_time=1, model=model.id)
            records.update(ended, (), model)
    return made.onnx


def _request(name: str, images: int) -> protocol.ModelInferRequest:
    shape = (images, WORKLOAD.size, WORKLOAD.size, WORKLOAD.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tensor = protocol.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=shape
    )
    return protocol.ModelInferRequest(
        model_name=name, inputs=[tensor], raw_input_contents=[pixels.tobytes()]
    )


def _bare(onnx_bytes: bytes) -> Callable[[int], float]:
    """Time one call of ONNX Runtime, with one thread as in the server."""
    request, opened = _request("", BATCH), session(onnx_bytes)
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
            ["round", "front, MiB", "CPU ms a query"],
            [
                [
                    str(row["round"] + 1),
                    mebibytes(row["front"]),
                    *milliseconds(row["processor"] / len(row["seconds"])),
                ]
                for row in rounds
            ],
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
