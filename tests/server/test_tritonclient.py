"""The client of Triton Inference Server, unchanged, queries adapted models."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton

from metanas.export.verify import session
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
