"""The client of Triton Inference Server, unchanged, queries adapted models."""

import json
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from metanas.export.runtime import session
from tests.server.calls import Api
from tests.server.processes import ServerProcess
from tests.server.queries import adapted, pixels


@pytest.fixture(scope="module")
def model(api: Api) -> tuple[str, bytes]:
    """The id of a model of grey images, and its file."""
    return adapted(api)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


def test_pixels_and_files_give_the_outputs_of_the_file(
    client: triton.InferenceServerClient, model: tuple[str, bytes]
) -> None:
    name, onnx = model
    images = pixels(3)
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    answer = client.infer(name, [tensor], request_id="7", client_timeout=30)
    wanted = session(onnx).run(["logits", "probabilities"], {"images": images})
    np.testing.assert_allclose(answer.as_numpy("logits"), wanted[0], atol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), wanted[1], atol=1e-5)
    assert answer.get_response().id == "7"


def test_a_file_and_its_largest_classes(
    client: triton.InferenceServerClient, model: tuple[str, bytes]
) -> None:
    buffer = BytesIO()
    Image.fromarray(pixels(1)[0, :, :, 0]).save(buffer, "PNG")
    tensor = triton.InferInput("images", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([buffer.getvalue()], dtype=np.object_))
    wanted = triton.InferRequestedOutput("probabilities", class_count=1)
    ((best,),) = client.infer(model[0], [tensor], outputs=[wanted]).as_numpy("probabilities")
    _, index, label = best.decode().split(":")
    assert label == "ab"[int(index)]


def test_descriptions(client: triton.InferenceServerClient, model: tuple[str, bytes]) -> None:
    name, _ = model
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert not client.is_model_ready("none")
    assert "statistics" in client.get_server_metadata(as_json=True)["extensions"]
    (described,) = client.get_model_metadata(name, as_json=True)["inputs"]
    assert described["shape"] == ["-1", "-1", "-1", "1"]
    config = client.get_model_config(name).config
    assert [(each.name, list(each.dims)) for each in config.input] == [("images", [-1, -1, 1])]
    assert config.output[0].data_type == triton.model_config_pb2.TYPE_FP32
    assert config.max_batch_size == 1024
    assert json.loads(config.parameters["labels"].string_value) == ["a", "b"]


def test_the_repository(client: triton.InferenceServerClient, api: Api) -> None:
    first, second = (adapted(api, seed)[0] for seed in (3, 4))
    index = [(each.name, each.state) for each in client.get_model_repository_index().models]
    assert index[:2] == [(second, "READY"), (first, "READY")]
    assert memory(client, second) == 0
    client.load_model(second)
    assert memory(client, second) > 2**20
    client.unload_model(second)
    assert memory(client, second) == 0
    assert client.is_model_ready(second)
    with pytest.raises(triton.InferenceServerException, match="cannot be uploaded"):
        client.load_model(second, config="{}")
    with pytest.raises(triton.InferenceServerException, match="there is no model"):
        client.load_model("none")


def memory(client: triton.InferenceServerClient, name: str) -> int:
    """Memory of an open model; 0 if it is not open."""
    (counts,) = client.get_inference_statistics(name).model_stats
    return sum(each.byte_size for each in counts.memory_usage)


def test_statistics(client: triton.InferenceServerClient, api: Api) -> None:
    name, _ = adapted(api, seed=5)
    tensor = triton.InferInput("images", [6, 12, 12, 1], "UINT8")
    tensor.set_data_from_numpy(pixels(6))
    wrong = triton.InferInput("pictures", [6, 12, 12, 1], "UINT8")
    wrong.set_data_from_numpy(pixels(6))
    for _ in range(2):
        client.infer(name, [tensor])
    with pytest.raises(triton.InferenceServerException, match="one input 'images'"):
        client.infer(name, [wrong])
    every = {each.name: each for each in client.get_inference_statistics().model_stats}
    counts = every[name]
    assert (counts.inference_count, counts.execution_count) == (12, 4)
    assert counts.last_inference > 0
    durations = counts.inference_stats
    assert (durations.success.count, durations.fail.count) == (2, 1)
    parts = [durations.queue, durations.compute_input, durations.compute_infer]
    parts.append(durations.compute_output)
    assert all(each.count == 2 and each.ns > 0 for each in parts)
    assert sum(each.ns for each in parts) <= durations.success.ns
