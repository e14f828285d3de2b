"""The largest and the worst message of each kind, and a data folder that makes answers long."""

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metanas_protos.v1.adaptation_pb2 import AdaptationSpec
from metanas_protos.v1.adaptation_service_pb2 import (
    CreateAdaptationRequest,
    GetAdaptationRequest,
    ListAdaptationsRequest,
)
from metanas_protos.v1.example_pb2 import TENSOR_TYPE_UINT8, Example, RawTensor
from metanas_protos.v1.model_service_pb2 import ListModelsRequest
from metanas_server.records.address import DATABASE, open_database
from metanas_server.records.records import Records
from metanas_server.resources import ModelRecord, ProgressRecord, State
from metanas_server.storage.folder_store import FolderStore
from tests.server.calls import Api, image, spec
from tests.server.test_parts import RECORD

MIB = 2**20
ROWS, STEPS = 500, 200
REPORT = json.dumps({"genotype": [], "seconds": {}, "architecture": {}})
LABELS = tuple(f"{number:0256}" for number in range(100))


def fill(data: Path, rows: int = ROWS, owner: str = "") -> None:
    """Write adaptations of many steps and long labels, and as many models, into a data folder."""
    onnx = FolderStore(data / "artefacts").put(b"onnx")
    progress = [
        ProgressRecord(
            sequence=i + 1, attempt=1, time=i, stage="adapt", step=i, steps=STEPS, loss=1
        )
        for i in range(STEPS)
    ]
    with closing(Records(open_database(data / DATABASE))) as records:
        for number in range(rows):
            record = replace(
                RECORD, id=f"{number}", classes=LABELS, labels=LABELS, support="", owner=owner
            )
            model = ModelRecord(
                id=record.id,
                owner=owner,
                checkpoint="grey",
                sha256=onnx,
                size_bytes=4,
                labels=LABELS,
                genotype_json="{}",
                report_json=REPORT,
                create_time=1,
            )
            records.insert(record)
            ended = replace(record, state=State.SUCCEEDED, end_time=1, model=record.id)
            records.update(ended, progress, model)


def upload(api: Api, messages: Iterable[CreateAdaptationRequest]) -> None:
    api.adaptations.CreateAdaptation(iter(messages), timeout=300)


def example(**fields: Any) -> CreateAdaptationRequest:
    return CreateAdaptationRequest(example=Example(**fields))


def examples(
    api: Api, *each: CreateAdaptationRequest, settings: AdaptationSpec | None = None
) -> None:
    upload(api, [CreateAdaptationRequest(spec=settings or spec()), *each])


def dimensions(api: Api) -> None:
    tensor = RawTensor(shape=[2**32 - 1] * (3 * MIB), type=TENSOR_TYPE_UINT8, data=b"1")
    examples(api, example(label=b"a", tensor=tensor))


def tensors(api: Api) -> None:
    tensor = RawTensor(shape=[2048, 2048, 4], type=TENSOR_TYPE_UINT8, data=bytes(16 * MIB))
    examples(api, *[example(label=b"a", tensor=tensor)] * 10)


def many(api: Api) -> None:
    each = [
        CreateAdaptationRequest(example=image(str(number % 100), number, size=2))
        for number in range(5000)
    ]
    examples(api, *each, *each[:1])


def headers(api: Api) -> None:
    """5,000 files whose headers have to be read."""
    names = [str(number % 100).encode() for number in range(5000)]
    examples(api, *(example(label=name, encoded=b"\xff\xd8\xff" * 1000) for name in names))


def classes(api: Api) -> None:
    examples(api, settings=spec(classes=[b"a" * 8] * 100_000))


def empty_classes(api: Api) -> None:
    examples(api, settings=spec(classes=[b""] * (MIB // 2 - 1000)))


def label(api: Api) -> None:
    examples(api, example(label=b"\xff" * 16 * MIB, encoded=b"?"))


def names(api: Api) -> None:
    examples(api, settings=spec(checkpoint="x" * (MIB - 1000)))


def request_id(api: Api) -> None:
    examples(api, settings=spec(request_id="ä" * (MIB // 2 - 1000)))


def unknown_fields(api: Api) -> None:
    channel: Any = api.channel
    method = "/metanas.v1.AdaptationService/CreateAdaptation"
    first = CreateAdaptationRequest(spec=spec()).SerializeToString()
    junk = (b"\xf8\x3f\x01" * (16 * MIB // 3))[: 16 * MIB]
    channel.stream_unary(method)(iter([first, junk]), timeout=300)


def get(api: Api) -> None:
    api.adaptations.GetAdaptation(GetAdaptationRequest(name="x" * (MIB - 10)), timeout=300)


def page(api: Api) -> None:
    api.adaptations.ListAdaptations(ListAdaptationsRequest(page_size=500), timeout=300)


def models(api: Api) -> None:
    api.models.ListModels(ListModelsRequest(page_size=500), timeout=300)


def token(api: Api) -> None:
    request = ListAdaptationsRequest(page_token="W1tb" * (MIB // 4 - 10))
    api.adaptations.ListAdaptations(request, timeout=300)


def watch(api: Api) -> None:
    assert len(list(api.watch("adaptations/1"))) == STEPS + 2


def reflection(api: Api) -> None:
    channel: Any = api.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_by_filename="x" * (MIB - 10))
    list(stub.ServerReflectionInfo(iter([request] * 20), timeout=300))


KINDS: list[Callable[[Api], None]] = [
    *(dimensions, tensors, many, headers, classes, empty_classes, label, names, request_id),
    *(unknown_fields, get, page, models, token, watch, reflection),
]
