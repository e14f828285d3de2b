"""The worst message of each kind: the reason of its refusal, and the work that it causes."""

import json
import tracemalloc
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from metanas.errors import InvalidInput, MetanasError, UnknownName
from metanas.spec.examples import Limits
from metanas_protos.inference import inference_service_pb2
from metanas_protos.v1 import (
    adaptation_service_pb2,
    checkpoint_service_pb2,
    example_pb2,
    model_service_pb2,
)
from metanas_protos.v1.adaptation_pb2 import AdaptationSpec
from metanas_protos.v1.adaptation_service_pb2 import (
    CreateAdaptationRequest,
    GetAdaptationRequest,
    ListAdaptationsRequest,
)
from metanas_protos.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from metanas_protos.v1.example_pb2 import Example, RawTensor
from metanas_server.api import convert, pagination
from tests.server.calls import Api, refused, spec
from tests.server.processes import ServerProcess

BOUND = 1_000_000  # bytes: copies of long texts fit, a list of the values or their product do not
MANY = 400_000
INVALID = grpc.StatusCode.INVALID_ARGUMENT
SERVICE = "/metanas.v1.AdaptationService"
MALFORMED = b"\x0a\xff\xff\xff\xff\x0f"  # a field that is longer than its message


def read_example(example: Example) -> None:
    _, violations = convert.read_example(example, 0, Limits())
    raise InvalidInput(violations)


def many_dimensions() -> None:
    raw = RawTensor(shape=[2**32 - 1] * MANY, type=example_pb2.TENSOR_TYPE_UINT8, data=b"x")
    example = Example(label=b"a", tensor=raw)
    bounded(lambda: read_example(example))


def many_classes() -> None:
    declared = AdaptationSpec(classes=[b""] * MANY)
    bounded(lambda: convert._read_classes(declared.classes, Limits()))


def long_label() -> None:
    example = Example(label=b"x" * MANY, encoded=b"x")
    bounded(lambda: read_example(example))


def long_name() -> None:
    name = "adaptations/" + "x" * MANY
    bounded(lambda: convert.read_id(name, "adaptation"))


def long_token() -> None:
    token = urlsafe_b64encode(b"[" * MANY).decode()
    bounded(lambda: pagination.read_token(token, "models"))


def bounded(read: Callable[[], object]) -> None:
    """Let a reader refuse a message, within little memory: nothing of its size was made."""
    tracemalloc.start()
    try:
        read()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < BOUND


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (many_dimensions, "TENSOR_SHAPE"),
        (many_classes, "TOO_MANY_WAYS"),
        (long_label, "LABEL_TOO_LONG"),
        (long_token, "PAGE_TOKEN"),
        (long_name, "UNKNOWN_ADAPTATION"),
    ],
)
def test_counts_and_sizes_are_checked_before_values(send: Callable[[], None], reason: str) -> None:
    with pytest.raises(MetanasError) as caught:
        send()
    assert caught.value.reason == reason


def test_a_long_checkpoint_name_is_shortened() -> None:
    with pytest.raises(UnknownName) as caught:
        convert.read_checkpoint_name("x" * MANY, {"grey": None, "colour": None})
    assert len(str(caught.value)) < 400


def unary(server: ServerProcess, method: str, raw: bytes) -> Any:
    channel: Any = server.channel  # its stubs know messages only
    return channel.unary_unary(f"{SERVICE}/{method}")(raw, timeout=60)


def upload(server: ServerProcess, *raw: bytes) -> Any:
    channel: Any = server.channel
    return channel.stream_unary(f"{SERVICE}/CreateAdaptation")(iter(raw), timeout=60)


METHODS = [
    method
    for module, name in (
        (adaptation_service_pb2, "AdaptationService"),
        (checkpoint_service_pb2, "CheckpointService"),
        (model_service_pb2, "ModelService"),
        (inference_service_pb2, "GRPCInferenceService"),
        (health_pb2, "Health"),
        (reflection_pb2, "ServerReflection"),
    )
    for method in module.DESCRIPTOR.services_by_name[name].methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.full_name))
def test_a_malformed_message_of_each_method(server: ServerProcess, data: Path, method: Any) -> None:
    arity = {False: "unary", True: "stream"}
    kind = f"{arity[method.client_streaming]}_{arity[method.server_streaming]}"
    call = getattr(server.channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    message = iter([MALFORMED]) if method.client_streaming else MALFORMED

    def send() -> None:
        answer = call(message, timeout=60)
        if method.server_streaming:
            list(answer)

    refusal = refused(send)
    assert (refusal.code, refusal.reason) == (INVALID, "REQUEST_MALFORMED")
    assert "Traceback" not in data.with_suffix(".log").read_text(encoding="utf-8")


def test_malformed_messages(server: ServerProcess, data: Path) -> None:
    first = CreateAdaptationRequest(spec=spec()).SerializeToString()
    answers = [
        refused(unary, server, "GetAdaptation", b"\x0a\x01\xff"),  # a string not in UTF-8
        refused(upload, server, first, MALFORMED),
    ]
    assert {(each.code, each.reason) for each in answers} == {(INVALID, "REQUEST_MALFORMED")}
    assert "Traceback" not in data.with_suffix(".log").read_text(encoding="utf-8")


def test_requests_beyond_their_size(server: ServerProcess) -> None:
    long = GetAdaptationRequest(name="x" * 2**20).SerializeToString()
    classes = CreateAdaptationRequest(spec=spec(classes=[b""] * 2**20)).SerializeToString()
    for answer in (refused(unary, server, "GetAdaptation", long), refused(upload, server, classes)):
        assert (answer.code, answer.reason) == (INVALID, "REQUEST_TOO_LARGE")
    server.api.serves()


@pytest.mark.parametrize("position", [-1, 2**63, 10**100, 1.5, None])
def test_tokens_made_by_hand(api: Api, position: object) -> None:
    token = urlsafe_b64encode(json.dumps(["adaptations ", position]).encode()).decode()
    request = ListAdaptationsRequest(page_token=token)
    assert refused(api.adaptations.ListAdaptations, request).reason == "PAGE_TOKEN"
    nested = ListCheckpointsRequest(page_token=urlsafe_b64encode(b"[" * 100_000).decode())
    assert refused(api.checkpoints.ListCheckpoints, nested).reason == "PAGE_TOKEN"


def test_a_state_that_the_contract_does_not_have(api: Api) -> None:
    request = ListAdaptationsRequest.FromString(b"\x18\x63")  # state 99
    answer = refused(api.adaptations.ListAdaptations, request)
    assert answer.violations == [("state", "STATE_UNKNOWN")]
