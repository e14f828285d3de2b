"""Refused requests over the wire: code, reason and field; the next request succeeds."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from metanas_protos.v1 import example_pb2
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions, AdaptationSpec
from metanas_protos.v1.adaptation_service_pb2 import CreateAdaptationRequest
from metanas_protos.v1.checkpoint_service_pb2 import (
    GetCheckpointRequest,
    ListCheckpointsRequest,
)
from metanas_protos.v1.example_pb2 import Example, RawTensor
from tests.server.calls import (
    CANCELLED,
    LONG,
    SUCCEEDED,
    Api,
    Refusal,
    image,
    images,
    parts,
    refused,
    spec,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MAX_IMAGE_BYTES = 20_000


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return (
        "--max-ways=4",
        "--max-shots=5",
        "--max-examples=12",
        f"--max-image-bytes={MAX_IMAGE_BYTES}",
        "--max-total-bytes=60000",
        "--max-upload-bytes=100000",
        f"--max-query-bytes={MAX_IMAGE_BYTES}",
        "--max-stack=1",
        "--max-queue=2",
        "--max-jobs-per-caller=4",
    )


def labelled(label: bytes) -> list[Example]:
    """A sound support set, but for the label of example 4."""
    return [*images(), Example(label=label, tensor=image("c").tensor)]


def tensor(*shape: int, kind: int = example_pb2.TENSOR_TYPE_UINT8, size: int) -> list[Example]:
    """A sound support set, but for the tensor of example 4."""
    raw = RawTensor(shape=shape, type=kind, data=bytes(size))  # type: ignore[arg-type]
    return [*images(), Example(label=b"c", tensor=raw)]


def test_the_spec_comes_first_and_examples_after_it(api: Api) -> None:
    sound = spec()
    none = list[CreateAdaptationRequest]()
    for sent in (
        none,
        [CreateAdaptationRequest()],
        [CreateAdaptationRequest(example=image("a"))],
    ):
        answer = refused(api.adaptations.CreateAdaptation, iter(sent))
        assert (answer.code, answer.violations) == (INVALID, [("spec", "NO_SPEC")])
    for second in (CreateAdaptationRequest(spec=sound), CreateAdaptationRequest()):
        first = CreateAdaptationRequest(spec=sound)
        example = CreateAdaptationRequest(example=image("a"))
        answer = refused(api.adaptations.CreateAdaptation, iter([first, example, second]))
        assert answer.violations == [("examples[1]", "NO_EXAMPLE")]
    api.serves()


TASKS: dict[str, tuple[list[Example], list[tuple[str, str]]]] = {
    "none": ([], [("examples", "NO_EXAMPLES")]),
    "one class": ([image("a"), image("a")], [("examples", "ONE_CLASS")]),
    "ways": ([image(str(i)) for i in range(5)], [("examples[4]", "TOO_MANY_WAYS")]),
    "shots": ([image("a", i) for i in range(6)], [("examples[5]", "TOO_MANY_SHOTS")]),
    "examples": (
        [image(str(i % 4), i) for i in range(13)],
        [("examples[12]", "TOO_MANY_EXAMPLES")],
    ),
    "bytes": ([image("a", size=140) for _ in range(4)], [("examples[3]", "TOO_MANY_BYTES")]),
    "image bytes": (
        [*images(), image("c", size=142)],
        [("examples[4].image", "IMAGE_TOO_LARGE")],
    ),
    "Latin-1": (labelled(b"caf\xe9"), [("examples[4].label", "LABEL_NOT_UTF8")]),
    "no label": (labelled(b""), [("examples[4].label", "LABEL_EMPTY")]),
    "an escape": (labelled(b"\x1b[2J"), [("examples[4].label", "LABEL_CONTROL")]),
    "a line": (labelled(b"a\nb"), [("examples[4].label", "LABEL_CONTROL")]),
    "long label": (labelled(b"x" * 257), [("examples[4].label", "LABEL_TOO_LONG")]),
    "no image": ([*images(), Example(label=b"c")], [("examples[4].image", "IMAGE_MISSING")]),
    "no type": (
        tensor(4, 4, 1, kind=0, size=16),
        [("examples[4].image", "TENSOR_TYPE")],
    ),
    "data too short": (tensor(4, 4, 1, size=15), [("examples[4].image", "TENSOR_SHAPE")]),
    "data too long": (tensor(4, 4, 1, size=17), [("examples[4].image", "TENSOR_SHAPE")]),
    "one dimension": (tensor(16, size=16), [("examples[4].image", "TENSOR_SHAPE")]),
    "no shape": (tensor(size=1), [("examples[4].image", "TENSOR_SHAPE")]),
    "huge shape": (
        tensor(2**32 - 1, 2**32 - 1, 2**32 - 1, size=1),
        [("examples[4].image", "TENSOR_SHAPE")],
    ),
    "many dimensions": (
        tensor(*[2**32 - 1] * 12_000, size=1),
        [("examples[4].image", "TENSOR_SHAPE")],
    ),
    "an unreadable label and an empty file": (
        [*images(), Example(label=b"\xff", encoded=b"?"), Example(label=b"a", encoded=b"")],
        [("examples[4].label", "LABEL_NOT_UTF8"), ("examples[5].image", "IMAGE_UNREADABLE")],
    ),
    "all kinds at once": (
        [
            Example(label=b"\xff"),
            Example(label=b"x" * 257, tensor=image("c").tensor),
            Example(label=b"", encoded=b""),
            image("a", size=142),
        ],
        [
            ("examples[0].label", "LABEL_NOT_UTF8"),
            ("examples[0].image", "IMAGE_MISSING"),
            ("examples[1].label", "LABEL_TOO_LONG"),
            ("examples[3].image", "IMAGE_TOO_LARGE"),
            ("examples[2].label", "LABEL_EMPTY"),
            ("examples[2].image", "IMAGE_UNREADABLE"),
        ],
    ),
}


@pytest.mark.parametrize("case", TASKS)
def test_support_sets(api: Api, case: str) -> None:
    examples, expected = TASKS[case]
    answer = refused(api.create, spec(), examples)
    assert (answer.code, answer.violations) == (INVALID, expected)
    assert answer.reason == expected[0][1]
    api.serves()


def test_pixels_are_looked_at_by_the_worker(api: Api) -> None:
    pixels = np.full((4, 4, 1), np.nan, "<f4")
    nan = RawTensor(shape=pixels.shape, type=example_pb2.TENSOR_TYPE_FLOAT32, data=pixels.tobytes())
    bad = [Example(label=b"a", encoded=b"?"), Example(label=b"b", tensor=nan)]
    failure = api.failure(spec(), [*images(), *bad])
    assert failure.code == INVALID.value[0]
    assert [(each.field, each.reason) for each in failure.violations] == [
        ("examples[4].image", "IMAGE_FORMAT"),
        ("examples[5].image", "TENSOR_NOT_FINITE"),
    ]
    api.serves()


def test_a_message_beyond_all_limits_ends_the_call_only(api: Api) -> None:
    huge = Example(label=b"a", encoded=bytes(MAX_IMAGE_BYTES + 100_000))
    with pytest.raises(grpc.RpcError) as caught:
        api.create(spec(), [huge])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    api.serves()


def test_a_refused_upload_is_not_received_to_its_end(api: Api) -> None:
    sent = 0

    def endless() -> Iterator[CreateAdaptationRequest]:
        nonlocal sent
        yield CreateAdaptationRequest(spec=spec())
        while True:
            sent += 1
            yield CreateAdaptationRequest(example=image("a"))

    answer = refused(api.adaptations.CreateAdaptation, endless())
    assert answer.reason == "TOO_MANY_SHOTS"
    assert sent < 100_000


def test_many_violations_fit_into_the_trailers(api: Api) -> None:
    long = "😀" * 60
    declared = spec(classes=[f"{i}{long}".encode() for i in range(4)])
    examples = [image(f"{i % 4}{long}x", i) for i in range(12)]
    answer = refused(api.create, declared, examples)
    assert answer.code is INVALID
    assert answer.reason == "CLASS_WITHOUT_EXAMPLES"
    omitted = int(answer.metadata.get("violations_omitted", 0))
    assert len(answer.violations) + omitted == 17


@pytest.mark.parametrize(
    ("classes", "field", "reason"),
    [
        ([b"a", b"b", b"c"], "classes[2]", "CLASS_WITHOUT_EXAMPLES"),
        ([b"a", b"b", b"a"], "classes[2]", "DUPLICATE_LABEL"),
        ([b"a", b"b", b"\xff"], "classes[2]", "LABEL_NOT_UTF8"),
        ([b"a", b"b", b""], "classes[2]", "LABEL_EMPTY"),
        ([b"a"], "examples[1].label", "LABEL_UNKNOWN"),
        ([b"a", b"x" * 257], "classes[1]", "LABEL_TOO_LONG"),
        ([b""] * 5, "classes", "TOO_MANY_WAYS"),
        ([b""] * 30_000, "classes", "TOO_MANY_WAYS"),
    ],
)
def test_declared_classes(api: Api, classes: list[bytes], field: str, reason: str) -> None:
    answer = refused(api.create, spec(classes=classes), images())
    assert (answer.code, answer.violations[0]) == (INVALID, (field, reason))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (AdaptationOptions(steps=-1), "options.steps"),
        (AdaptationOptions(tuning_steps=501), "options.tuning_steps"),
        (AdaptationOptions(weight_lr=float("nan")), "options.weight_lr"),
        (AdaptationOptions(temperature_end=9.0), "options.temperature_end"),
        (AdaptationOptions(batch_size=0), "options.batch_size"),
        (AdaptationOptions(shift_pixels=-1), "options.shift_pixels"),
        (AdaptationOptions(shift_pixels=4), "options.shift_pixels"),  # of 16 pixels
    ],
)
def test_options(api: Api, options: AdaptationOptions, field: str) -> None:
    answer = refused(api.create, spec(options=options), images())
    assert answer.code is INVALID
    assert (field, "OPTION_OUT_OF_RANGE") in answer.violations
    api.serves()


def test_an_option_that_this_server_does_not_know_is_not_ignored(api: Api) -> None:
    newer = AdaptationOptions.FromString(b"\xc0\x3e\x01")  # field 1000, value 1
    answer = refused(api.create, spec(options=newer), images())
    assert answer.violations == [("options", "OPTION_UNKNOWN")]
    assert "1000" in answer.message


def test_a_name_of_any_length_fits_into_the_trailers(api: Api) -> None:
    for name in ("x" * 50_000, "😀" * 10_000):
        answer = refused(api.create, spec(checkpoint=name), images())
        assert answer.reason == "UNKNOWN_CHECKPOINT"


def test_other_fields_of_the_spec(api: Api) -> None:
    endless = spec()
    endless.timeout.FromSeconds(-1)
    for wrong, reason in (
        (endless, "TIMEOUT_INVALID"),
        (spec(request_id="x" * 129), "REQUEST_ID_TOO_LONG"),
    ):
        answer = refused(api.create, wrong, images())
        assert (answer.code, answer.reason) == (INVALID, reason)


def test_a_request_without_a_checkpoint_gets_a_choice(api: Api) -> None:
    answer = refused(api.create, AdaptationSpec(), images())
    assert (answer.code, answer.reason) == (INVALID, "CHECKPOINT_AMBIGUOUS")
    assert "name one of colour, grey" in answer.message


@pytest.mark.parametrize("name", ["checkpoints/gray", "gray", "models/grey", "../grey"])
def test_checkpoints_that_do_not_exist(api: Api, name: str) -> None:
    show = api.checkpoints.GetCheckpoint
    for answer in (
        refused(api.create, AdaptationSpec(checkpoint=name), images()),
        refused(show, GetCheckpointRequest(name=name)),
    ):
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_CHECKPOINT")
        assert "colour, grey" in answer.message


def test_checkpoints_are_shown_with_limits_and_defaults(api: Api) -> None:
    first = api.checkpoints.ListCheckpoints(ListCheckpointsRequest(page_size=1))
    assert [each.name for each in first.checkpoints] == ["checkpoints/colour"]
    second = api.checkpoints.ListCheckpoints(
        ListCheckpointsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [each.name for each in second.checkpoints] == ["checkpoints/grey"]
    assert not second.next_page_token
    grey = api.checkpoints.GetCheckpoint(GetCheckpointRequest(name="grey")).checkpoint
    assert grey == second.checkpoints[0]
    assert grey.input.channels == 1
    assert (grey.limits.max_ways, grey.limits.max_image_bytes) == (4, MAX_IMAGE_BYTES)
    assert grey.defaults.steps == 2
    assert len(grey.defaults.ListFields()) == len(grey.defaults.DESCRIPTOR.fields)
    assert len(grey.digest) == 64
    assert grey.parameters > 0


@pytest.mark.parametrize("name", ["", "adaptations/", "adaptations/none", "none", "models/none"])
def test_names_of_no_adaptation(api: Api, name: str) -> None:
    for do in (api.get, api.cancel, lambda name: list(api.watch(name))):
        answer = refused(do, name)
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ADAPTATION")


def end(api: Api, names: list[str]) -> None:
    for name in names:
        api.cancel(name)
        assert api.end_of(name).state == CANCELLED


def overloaded(answer: Refusal, reason: str) -> None:
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
    assert answer.retry_seconds
    assert answer.retry_seconds > 0


def test_a_full_queue(api: Api) -> None:
    names = [api.create(spec(options=LONG), images()).name]
    api.until_running(names[0])
    names += [api.create(spec(options=LONG, seed=i), images()).name for i in (1, 2)]
    overloaded(refused(api.create, spec(), images()), "QUEUE_FULL")
    end(api, names)
    api.serves()


def test_uploads_that_are_too_many_together(api: Api) -> None:
    """The first upload stays open at 60 000 bytes, the second one would go beyond 100 000."""
    go_on = threading.Event()

    def slow() -> Iterator[CreateAdaptationRequest]:
        yield from parts(spec(), large)
        go_on.wait(60)

    large = [image(label, index, size=140) for index, label in enumerate("abc")]
    first = api.adaptations.CreateAdaptation.future(slow())
    answer: Any = None
    while answer is None:  # until the first upload has arrived
        if first.done():  # it came second, and it was the one to be refused
            first = api.adaptations.CreateAdaptation.future(slow())
        try:
            api.adapt(spec(), large)
        except grpc.RpcError as error:
            answer = error
    go_on.set()
    assert answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert api.end_of(first.result().adaptation.name).state == SUCCEEDED
    api.serves()
