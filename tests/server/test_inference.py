"""Queries by the Open Inference Protocol: answers, and refusals before any work."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metanas.export.runtime import session
from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest
from tests.server.calls import Api
from tests.server.processes import ServerProcess
from tests.server.queries import (
    InputTensor,
    Queries,
    adapted,
    file_query,
    pixels,
    raw_query,
    values_of,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-query-images=8", "--max-pixels=10000", "--max-query-bytes=100000")


@pytest.fixture(scope="module")
def queries(server: ServerProcess) -> Queries:
    return Queries(server.channel)


@pytest.fixture(scope="module")
def model(api: Api) -> tuple[str, bytes]:
    """The id of a model of grey images, and its file."""
    return adapted(api)


def expected(onnx: bytes, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    names = ["logits", "probabilities"]
    return dict(zip(names, session(onnx).run(names, {"images": images}), strict=True))


def encoded(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, kind)
    return buffer.getvalue()


def test_a_query_right_after_the_adaptation(queries: Queries, model: tuple[str, bytes]) -> None:
    name, onnx = model
    answer = queries.infer(raw_query(name, pixels(7), id="my query"))
    assert (answer.model_name, answer.model_version, answer.id) == (name, "1", "my query")
    for output, values in expected(onnx, pixels(7)).items():
        np.testing.assert_allclose(values_of(answer)[output], values, atol=1e-5)


def test_the_full_name_and_the_version_work_too(queries: Queries, model: tuple[str, bytes]) -> None:
    query = raw_query(f"models/{model[0]}", pixels(), model_version="1")
    assert queries.infer(query).model_name == f"models/{model[0]}"


def test_typed_elements_get_typed_answers(queries: Queries, model: tuple[str, bytes]) -> None:
    name, onnx = model
    query = raw_query(name, pixels())
    query.inputs[0].contents.uint_contents[:] = pixels().ravel().tolist()
    query.ClearField("raw_input_contents")
    answer = queries.infer(query)
    assert not answer.raw_output_contents
    values = np.reshape(answer.outputs[0].contents.fp32_contents, answer.outputs[0].shape)
    np.testing.assert_allclose(values, expected(onnx, pixels())["logits"], atol=1e-5)


def test_files_are_decoded_as_support_images_are(
    queries: Queries, model: tuple[str, bytes]
) -> None:
    name, onnx = model
    images = [pixels(1)[0], pixels(1, 20)[0]]
    answer = values_of(queries.infer(file_query(name, [encoded(each) for each in images])))
    for index, image in enumerate(images):
        wanted = expected(onnx, image[None])["logits"][0]
        np.testing.assert_allclose(answer["logits"][index], wanted, atol=1e-5)
    typed = file_query(name, [])
    typed.inputs[0].shape[:] = [2, 1]
    typed.inputs[0].contents.bytes_contents[:] = [encoded(each, "BMP") for each in images]
    typed.ClearField("raw_input_contents")
    again = queries.infer(typed).outputs[0].contents.fp32_contents
    np.testing.assert_allclose(np.reshape(again, (2, -1)), answer["logits"], atol=1e-5)


def test_colour_becomes_grey(queries: Queries, model: tuple[str, bytes]) -> None:
    name, onnx = model
    image = pixels(1, channels=3)[0]
    grey = np.asarray(Image.fromarray(image).convert("L"))[None, :, :, None]
    answer = values_of(queries.infer(file_query(name, [encoded(image)])))
    np.testing.assert_allclose(answer["logits"], expected(onnx, grey)["logits"], atol=1e-5)


def test_outputs_and_classification(queries: Queries, model: tuple[str, bytes]) -> None:
    name, onnx = model
    wanted = protocol.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")
    wanted.parameters["classification"].int64_param = 5
    answer = queries.infer(raw_query(name, pixels(2), outputs=[wanted]))
    assert [(each.name, each.datatype) for each in answer.outputs] == [("probabilities", "BYTES")]
    assert list(answer.outputs[0].shape) == [2, 2]
    for row in expected(onnx, pixels(2))["probabilities"]:
        best = int(row.argmax())
        assert f"{row[best]:f}:{best}:{'ab'[best]}".encode() in answer.raw_output_contents[0]
    query = raw_query(name, pixels(1), outputs=[wanted])
    query.inputs[0].contents.uint_contents[:] = pixels(1).ravel().tolist()
    query.ClearField("raw_input_contents")
    first, second = queries.infer(query).outputs[0].contents.bytes_contents
    assert float(first.split(b":")[0]) >= float(second.split(b":")[0])


def test_metadata(queries: Queries, model: tuple[str, bytes]) -> None:
    stub = queries.stub
    assert stub.ServerLive(protocol.ServerLiveRequest()).live
    assert stub.ServerReady(protocol.ServerReadyRequest()).ready
    known = stub.ServerMetadata(protocol.ServerMetadataRequest())
    assert (known.name, "classification" in known.extensions) == ("metanas-server", True)
    described = stub.ModelMetadata(protocol.ModelMetadataRequest(name=model[0]))
    assert [(t.name, t.datatype, list(t.shape)) for t in described.inputs] == [
        ("images", "UINT8", [-1, -1, -1, 1])
    ]
    assert [(t.name, list(t.shape)) for t in described.outputs][:2] == [
        ("logits", [-1, 2]),
        ("probabilities", [-1, 2]),
    ]


def test_ready_models_are_those_that_exist(api: Api, queries: Queries) -> None:
    ready = queries.stub.ModelReady
    name, _ = adapted(api, seed=8)
    assert ready(protocol.ModelReadyRequest(name=name)).ready
    assert not ready(protocol.ModelReadyRequest(name=name, version="2")).ready
    assert not ready(protocol.ModelReadyRequest(name="none")).ready
    queries.infer(raw_query(name, pixels()))
    api.models.DeleteModel(DeleteModelRequest(name=f"models/{name}"))
    assert not ready(protocol.ModelReadyRequest(name=name)).ready
    answer = queries.refusal(raw_query(name, pixels()))
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


def test_unknown_versions(queries: Queries, model: tuple[str, bytes]) -> None:
    answer = queries.refusal(raw_query(model[0], pixels(), model_version="7"))
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_VERSION")


def _changed(**changes: Any) -> protocol.ModelInferRequest:
    """A query of one image with a changed input tensor."""
    query = raw_query("", pixels(1))
    tensor = InputTensor(
        **{"name": "images", "datatype": "UINT8", "shape": [1, 12, 12, 1]} | changes
    )
    query.inputs[0].CopyFrom(tensor)
    return query


def _asking(name: str, classes: int | None = None) -> protocol.ModelInferRequest:
    """A query for one output."""
    wanted = protocol.ModelInferRequest.InferRequestedOutputTensor(name=name)
    if classes is not None:
        wanted.parameters["classification"].int64_param = classes
    return raw_query("", pixels(1), outputs=[wanted])


def _files(raw: bytes, shape: list[int]) -> protocol.ModelInferRequest:
    """A query with these raw bytes as encoded files."""
    query = _changed(datatype="BYTES", shape=shape)
    query.raw_input_contents[:] = [raw]
    return query


FAULTS = {
    "no input": (protocol.ModelInferRequest(), "INPUT_NAME"),
    "name": (_changed(name="pictures"), "INPUT_NAME"),
    "datatype": (_changed(datatype="FP32"), "INPUT_DATATYPE"),
    "rank": (_changed(shape=[12, 12, 1]), "INPUT_SHAPE"),
    "channels": (_changed(shape=[1, 4, 12, 3]), "INPUT_SHAPE"),
    "no image": (_changed(shape=[0, 12, 12, 1]), "INPUT_SHAPE"),
    "negative": (_changed(shape=[-1, -12, 12, 1]), "INPUT_SHAPE"),
    "huge": (_changed(shape=[1, 2**40, 2**40, 1]), "IMAGE_TOO_MANY_PIXELS"),
    "small": (_changed(shape=[1, 1, 12, 1]), "IMAGE_TOO_SMALL"),
    "batch": (_changed(shape=[9, 12, 12, 1]), "TOO_MANY_IMAGES"),
    "elements": (_changed(shape=[2, 12, 12, 1]), "INPUT_CONTENTS"),
    "twice": (_changed(contents={"uint_contents": [1]}), "INPUT_CONTENTS"),
    "output": (_asking("classes"), "OUTPUT_UNKNOWN"),
    "classification": (_asking("logits", 0), "CLASSIFICATION_INVALID"),
    "files shape": (_files(b"\0\0\0\0", [1, 1, 1]), "INPUT_SHAPE"),
    "files cut": (_files(b"\xff\xff\xff\xff", [1]), "INPUT_CONTENTS"),
    "files count": (_files(b"\0\0\0\0" * 3, [2]), "INPUT_CONTENTS"),
    "files many": (_files(b"\0\0\0\0" * 9, [9]), "TOO_MANY_IMAGES"),
    "file empty": (_files(b"\0\0\0\0", [1]), "IMAGE_UNREADABLE"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(queries: Queries, model: tuple[str, bytes], fault: str) -> None:
    query, reason = FAULTS[fault]
    query.model_name = model[0]
    answer = queries.refusal(query)
    assert (answer.code, answer.reason) == (INVALID, reason), answer.message


def test_bad_files_are_listed_by_their_index(queries: Queries, model: tuple[str, bytes]) -> None:
    good = encoded(pixels(1)[0])
    large = encoded(pixels(1, 101)[0])
    answer = queries.refusal(file_query(model[0], [good, b"rubbish", good, large]))
    assert answer.violations == [
        ("inputs[0][1]", "IMAGE_FORMAT"),
        ("inputs[0][3]", "IMAGE_TOO_MANY_PIXELS"),
    ]


def test_values_above_255(queries: Queries, model: tuple[str, bytes]) -> None:
    query = _changed(shape=[1, 2, 2, 1], contents={"uint_contents": [1, 2, 3, 256]})
    query.model_name = model[0]
    query.ClearField("raw_input_contents")
    assert queries.refusal(query).reason == "INPUT_CONTENTS"


def test_large_queries(queries: Queries, model: tuple[str, bytes]) -> None:
    answer = queries.refusal(raw_query(model[0], pixels(8, 120)))
    assert (answer.code, answer.reason) == (INVALID, "REQUEST_TOO_LARGE")


def test_a_client_that_knows_reflection_only(server: ServerProcess) -> None:
    """`buf curl` learns the service from the server's reflection."""
    buf = Path(sys.executable).parent / "buf"
    command = [str(buf), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", "{}"]
    url = f"http://{server.address}/inference.GRPCInferenceService/ServerMetadata"
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False, timeout=60)
    assert '"name":"metanas-server"' in done.stdout.replace(" ", ""), done.stderr
