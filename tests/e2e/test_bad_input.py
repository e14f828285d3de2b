"""Bad requests: the answer names each fault and its place, and the next request is served.

Every case goes through the real client to a real server, which all cases share.
"""

import socket
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from metanas_client import Client, InvalidInput, NotFound, State, Unavailable
from metanas_protos.v1 import adaptation_service_pb2, adaptation_service_pb2_grpc
from tests.e2e.running import Running, running

LIMITS = (
    "--max-ways=4",
    "--max-shots=5",
    "--max-examples=12",
    "--max-image-bytes=20000",
    "--max-total-bytes=60000",
    "--max-pixels=40000",
    "--max-label-bytes=32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "data"


@pytest.fixture(scope="module")
def server(checkpoints: Path, data: Path) -> Iterator[Running]:
    with running(checkpoints, data, *LIMITS) as service:
        yield service


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with server.client() as connected:
        yield connected


def picture(value: int = 0, size: tuple[int, int] = (12, 12), fmt: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.new("L", size, value).save(buffer, fmt)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A small file that claims any size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + picture()[33:]


GOOD: dict[str, list[Any]] = {"dark": [picture(10), picture(30)], "light": [picture(250)]}


def with_bad(image: object) -> dict[str, list[Any]]:
    """A sound support set, but for example 3."""
    return {**GOOD, "bad": [image]}


def serves(client: Client) -> None:
    """The next request is served."""
    model = client.adapt(GOOD, checkpoint="grey").result(timeout=60)
    assert model.labels == ("dark", "light")


def refusal(client: Client, support: Any, **arguments: Any) -> list[tuple[str, str]]:
    """(field, reason) of each violation, whether it shows at once or when the worker looks."""
    with pytest.raises(InvalidInput) as caught:
        client.adapt(support, **{"checkpoint": "grey", **arguments}).result(timeout=60)
    assert caught.value.reason == caught.value.violations[0].reason
    assert all(violation.message for violation in caught.value.violations)
    return [(violation.field, violation.reason) for violation in caught.value.violations]


TASKS: Mapping[str, tuple[Any, list[tuple[str, str]]]] = {
    "no examples": ({}, [("examples", "NO_EXAMPLES")]),
    "one class": ({"dark": [picture()]}, [("examples", "ONE_CLASS")]),
    "class without examples": (
        {**GOOD, "none": []},
        [("classes[2]", "CLASS_WITHOUT_EXAMPLES")],
    ),
    "too many ways": (
        {str(i): [picture()] for i in range(5)},
        [("classes", "TOO_MANY_WAYS")],
    ),
    "too many shots": (
        {**GOOD, "many": [picture()] * 6},
        [("examples[8]", "TOO_MANY_SHOTS")],
    ),
    "too many examples": (
        {str(i): [picture()] * 4 for i in range(4)},
        [("examples[12]", "TOO_MANY_EXAMPLES")],
    ),
    "too many bytes": (
        {label: np.zeros((2, 130, 130, 1), np.uint8) for label in ("a", "b")},
        [("examples", "TOO_MANY_BYTES")],
    ),
    "empty label": ({**GOOD, "": [picture()]}, [("classes[2]", "LABEL_EMPTY")]),
    "blank label": ({**GOOD, " \t": [picture()]}, [("classes[2]", "LABEL_EMPTY")]),
    "long label": ({**GOOD, "ü" * 17: [picture()]}, [("classes[2]", "LABEL_TOO_LONG")]),
    "label in Latin-1": (
        {**GOOD, "café".encode("latin-1"): [picture()]},
        [("classes[2]", "LABEL_NOT_UTF8")],
    ),
    "the same label twice": (
        {**GOOD, b"dark": [picture()]},
        [("classes[2]", "DUPLICATE_LABEL")],
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_tasks_that_cannot_be_adapted_to(client: Client, case: str) -> None:
    support, expected = TASKS[case]
    found = refusal(client, support)
    # what is wrong with a class's name shows again at each of its examples
    assert found[0] == expected[0]
    serves(client)


IMAGES: Mapping[str, tuple[Any, str]] = {
    "no bytes": (b"", "IMAGE_UNREADABLE"),
    "text": (b"dear sir or madam", "IMAGE_FORMAT"),
    "GIF": (picture(fmt="GIF"), "IMAGE_FORMAT"),
    "TIFF": (picture(fmt="TIFF"), "IMAGE_FORMAT"),
    "half a PNG": (picture()[:45], "IMAGE_TRUNCATED"),
    "half a JPEG": (picture(fmt="JPEG")[:-60], "IMAGE_TRUNCATED"),
    "half a WebP": (picture(fmt="WEBP")[:-10], "IMAGE_TRUNCATED"),
    "half a BMP": (picture(fmt="BMP")[:-70], "IMAGE_TRUNCATED"),
    "a damaged PNG": (picture()[:41] + b"\xff\xff\xff" + picture()[44:], "IMAGE_UNREADABLE"),
    "a bomb": (png(60_000, 60_000), "IMAGE_TOO_MANY_PIXELS"),
    "a bit too large": (picture(size=(201, 200)), "IMAGE_TOO_MANY_PIXELS"),
    "0×N": (png(0, 12), "IMAGE_UNREADABLE"),
    "1×1": (picture(size=(1, 1)), "IMAGE_TOO_SMALL"),
    "too many bytes": (picture() + b"\0" * 20_000, "IMAGE_TOO_LARGE"),
    "four channels": (np.zeros((12, 12, 4), np.uint8), "TENSOR_CHANNELS"),
    "channels first": (np.zeros((3, 12, 12), np.uint8), "TENSOR_CHANNELS"),
    "a side of 0": (np.zeros((0, 12, 1), np.uint8), "IMAGE_TOO_SMALL"),
    "one pixel": (np.zeros((1, 1, 1), np.uint8), "IMAGE_TOO_SMALL"),
    "NaN": (np.full((12, 12, 1), np.nan, np.float32), "TENSOR_NOT_FINITE"),
    "infinite": (np.full((12, 12, 1), -np.inf, np.float32), "TENSOR_NOT_FINITE"),
    "0 to 255 as float": (np.full((12, 12, 1), 255, np.float32), "TENSOR_RANGE"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_cannot_be_read(client: Client, case: str) -> None:
    image, reason = IMAGES[case]
    assert refusal(client, with_bad(image)) == [("examples[3].image", reason)]
    serves(client)


def test_all_unreadable_images_are_named_at_once(client: Client) -> None:
    support = {**GOOD, "bad": [b"", b"<html>", picture(60), b"GIF89a"]}
    assert refusal(client, support) == [
        ("examples[3].image", "IMAGE_UNREADABLE"),
        ("examples[4].image", "IMAGE_FORMAT"),
        ("examples[6].image", "IMAGE_FORMAT"),
    ]


def test_an_image_of_two_classes_is_refused(client: Client) -> None:
    assert refusal(client, with_bad(picture(30))) == [("examples[3].image", "SAME_IMAGE")]
    serves(client)


def test_a_bad_file_is_called_by_its_name(client: Client, tmp_path: Path) -> None:
    for name, content in {"a/1.png": picture(), "b/1.png": picture(), "b/2.png": b"?"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        client.adapt(tmp_path, checkpoint="grey").result(timeout=60)
    assert [v.source for v in caught.value.violations] == [str(tmp_path / "b" / "2.png")]


def test_sizes_formats_and_types_may_be_mixed(client: Client) -> None:
    mixed = {
        "a": [picture(size=(5, 90)), picture(fmt="JPEG"), np.zeros((7, 9, 3), np.uint8)],
        "b": [picture(90, fmt="WEBP", size=(2, 2)), np.ones((40, 3), np.float32)],
    }
    for checkpoint in ("grey", "colour"):
        model = client.adapt(mixed, checkpoint=checkpoint).result(timeout=60)
        assert model.report.shots == (3, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": -1}, ("options.steps", "OPTION_OUT_OF_RANGE")),
        ({"steps": 501}, ("options.steps", "OPTION_OUT_OF_RANGE")),
        ({"steps": 1.5}, ("options.steps", "OPTION_TYPE")),
        ({"steps": True}, ("options.steps", "OPTION_TYPE")),
        ({"weight_lr": float("nan")}, ("options.weight_lr", "OPTION_OUT_OF_RANGE")),
        ({"weight_lr": float("inf")}, ("options.weight_lr", "OPTION_OUT_OF_RANGE")),
        ({"alpha_lr": 2.0}, ("options.alpha_lr", "OPTION_OUT_OF_RANGE")),
        ({"temperature_end": 5.0}, ("options.temperature_end", "OPTION_OUT_OF_RANGE")),
        ({"temperature_start": 0.0}, ("options.temperature_start", "OPTION_OUT_OF_RANGE")),
        ({"batch_size": 0}, ("options.batch_size", "OPTION_OUT_OF_RANGE")),
        ({"gradient_clip": 0.0}, ("options.gradient_clip", "OPTION_OUT_OF_RANGE")),
        ({"bilevel": 1}, ("options.bilevel", "OPTION_TYPE")),
        ({"magic": 1}, ("options.magic", "OPTION_UNKNOWN")),
    ],
)
def test_options_out_of_bounds(
    client: Client, options: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert expected in refusal(client, GOOD, options=options)
    serves(client)


def test_a_checkpoint_that_does_not_exist(client: Client) -> None:
    with pytest.raises(NotFound, match="colour, grey") as caught:
        client.adapt(GOOD, checkpoint="gray")
    assert caught.value.reason == "UNKNOWN_CHECKPOINT"
    serves(client)


def test_everything_wrong_at_once_is_told_at_once(client: Client) -> None:
    support = {"a": [b"x" * 30_000, picture()], " ": [picture()], "c": []}
    found = refusal(client, support)
    assert {reason for _, reason in found} == {
        "IMAGE_TOO_LARGE",
        "LABEL_EMPTY",
        "CLASS_WITHOUT_EXAMPLES",
    }


def test_a_caller_that_goes_away_in_the_middle(server: Running, client: Client) -> None:
    spec = adaptation_service_pb2.CreateAdaptationRequest()
    spec.spec.checkpoint = "grey"
    with grpc.insecure_channel(server.address) as channel:
        stub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        for leave_after in (1, 2):
            call = stub.CreateAdaptation.future(iter([spec] * leave_after))
            call.cancel()
    serves(client)


def test_nothing_half_written_is_left(client: Client, data: Path) -> None:
    serves(client)
    models = list(client.models())
    assert models
    for info in models:
        assert client.adaptation(info.adaptation).info().state is State.SUCCEEDED
    whole = {info.sha256 for info in models}
    stored = [path for path in (data / "artefacts").rglob("*") if path.is_file()]
    assert whole <= {path.name for path in stored}
    assert [path for path in stored if path.suffix or path.stat().st_size == 0] == []


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: no server can be there
        with (
            Client(f"127.0.0.1:{taken.getsockname()[1]}", patience=0.1) as client,
            pytest.raises(Unavailable, match="metanas-server"),
        ):
            client.adapt(GOOD)
