"""The same answer for a photo of any size and encoding: of the server, the file, and torch."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray
from PIL import Image

from metanas.export.onnx_model import to_onnx
from metanas_client import Model
from metanas_client.onnx.images import load_image
from tests.e2e.running import DIGITS, Running, running
from tests.e2e.test_congruence import classifier, logits

Pixels = NDArray[np.uint8]
SIZES = [
    *((2, 2), (2, 9), (5, 4), (3, 50), (8, 8), (15, 16), (16, 16), (17, 31), (28, 28), (32, 32)),
    *((50, 3), (64, 48), (96, 97), (100, 37), (127, 129), (200, 9), (224, 224), (255, 256)),
    *((480, 640), (900, 600)),
]


def saved(fmt: str, **options: object) -> Callable[[Pixels], bytes]:
    def encode(pixels: Pixels) -> bytes:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, fmt, **options)
        return buffer.getvalue()

    return encode


ENCODINGS: dict[str, Callable[[Pixels], bytes | Pixels]] = {
    "PNG": saved("PNG"),
    "JPEG": saved("JPEG", quality=80),
    "WebP": saved("WEBP", quality=80),
    "WebP lossless": saved("WEBP", lossless=True),
    "BMP": saved("BMP"),
    "pixels": lambda pixels: pixels,
}


@pytest.fixture(scope="module")
def served(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Model]]:
    """A server and a model of it."""
    data = tmp_path_factory.mktemp("served") / "data"
    with running(checkpoints, data) as service, service.client() as client:
        yield service, client.adapt(DIGITS / "support", checkpoint="colour").result(120)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_server_answers_like_the_file(served: tuple[Running, Model], encoding: str) -> None:
    service, model = served
    with triton.InferenceServerClient(service.address) as queries:
        for image in map(ENCODINGS[encoding], photos()):
            (own,) = model.predict([image])
            answer = queries.infer(model.name.partition("/")[2], [tensor_of(image)])
            (theirs,) = answer.as_numpy("probabilities")
            expected = [own.probabilities[label] for label in model.labels]
            np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-3)
            assert model.labels[theirs.argmax()] == own.label


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_file_answers_like_torch(checkpoints: Path, encoding: str) -> None:
    checkpoint, network = classifier(checkpoints / "colour", 3)
    file = to_onnx(network, checkpoint.ops, {}).SerializeToString()
    for image in map(ENCODINGS[encoding], photos()):
        pixels = load_image(image, 3) if isinstance(image, bytes) else image
        with torch.no_grad():
            expected = network.logits([network.encoders[0].preprocess(pixels)]).softmax(1)[0]
        (answer,) = torch.from_numpy(logits(file, pixels[None])).softmax(1)
        torch.testing.assert_close(answer, expected, rtol=0, atol=1e-3)
        assert answer.argmax() == expected.argmax()


def photos() -> list[Pixels]:
    """Smooth images with some noise, one of each size."""
    random = np.random.default_rng(0)
    small = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in SIZES]
    large = [
        np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        for image, (height, width) in zip(small, SIZES, strict=True)
    ]
    return [image // 2 + random.integers(0, 128, image.shape, dtype=np.uint8) for image in large]


def tensor_of(image: bytes | Pixels) -> triton.InferInput:
    """Make the input of a query."""
    if isinstance(image, bytes):
        tensor = triton.InferInput("images", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([image], dtype=np.object_))
    else:
        tensor = triton.InferInput("images", [1, *image.shape], "UINT8")
        tensor.set_data_from_numpy(image[None])
    return tensor
