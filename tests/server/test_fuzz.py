"""Mutated messages of each method: an answer for each, and neither INTERNAL nor UNKNOWN.

`make fuzz` sends more: METANAS_FUZZ is the number of messages, METANAS_FUZZ_SEED their seed.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import grpc
import PIL.Image
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from metanas_protos.inference import inference_service_pb2
from metanas_protos.v1 import (
    adaptation_service_pb2,
    checkpoint_service_pb2,
    example_pb2,
    model_service_pb2,
)
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.adaptation_service_pb2 import (
    CreateAdaptationRequest,
    ListAdaptationsRequest,
)
from tests.server.calls import FAILED, Api, images, spec
from tests.server.processes import ServerProcess

MESSAGES = int(os.environ.get("METANAS_FUZZ", "300"))
SEED = int(os.environ.get("METANAS_FUZZ_SEED", "0"))
SERVICES = (
    (adaptation_service_pb2, "AdaptationService"),
    (checkpoint_service_pb2, "CheckpointService"),
    (model_service_pb2, "ModelService"),
    (inference_service_pb2, "GRPCInferenceService"),
    (health_pb2, "Health"),
    (reflection_pb2, "ServerReflection"),
)
METHODS = [
    method
    for module, name in SERVICES
    for method in module.DESCRIPTOR.services_by_name[name].methods
]
WRONG = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
SECONDS = 5.0
"""Time limit of a call: a watch of health does not end."""
MOST_LOG_BYTES = 10 * 2**20


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-seconds=10", "--max-queue=10000", "--max-jobs-per-caller=10000")


def photo(random: Random) -> bytes:
    """A small image file of a random format."""
    file = BytesIO()
    picture = PIL.Image.new("RGB", (random.randint(2, 40), random.randint(2, 40)), "red")
    picture.save(file, random.choice(["PNG", "JPEG", "WebP", "BMP"]))
    return file.getvalue()


def upload(random: Random) -> list[bytes]:
    """The messages of a sound request."""
    options = AdaptationOptions(steps=2, tuning_steps=1, weight_lr=0.01)
    settings = spec(
        checkpoint=random.choice(["checkpoints/grey", "colour"]),
        options=options,
        seed=random.getrandbits(32),
        classes=[b"a", b"b"],
        request_id=str(random.random()),
    )
    examples = [
        *images(seed=random.getrandbits(16)),
        example_pb2.Example(label=b"a", encoded=photo(random)),
    ]
    messages = [CreateAdaptationRequest(spec=settings)]
    messages += [CreateAdaptationRequest(example=each) for each in examples]
    return [each.SerializeToString() for each in messages]


def sound(method: Any, names: Sequence[str], random: Random) -> list[bytes]:
    """Messages of a call that would succeed, or nearly."""
    if method.name == "CreateAdaptation":
        return upload(random)
    message = getattr(_module(method), method.input_type.name)()
    for field in method.input_type.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, random.choice([*names, "grey", ""]))
        elif field.type in (field.TYPE_INT32, field.TYPE_INT64) and not field.is_repeated:
            setattr(message, field.name, random.choice([0, 1, 5, 2**31 - 1]))
    return [message.SerializeToString()]


def _module(method: Any) -> Any:
    return next(module for module, name in SERVICES if method.containing_service.name == name)


def mutated(raw: bytes, random: Random) -> bytes:
    """Flip, cut, double, insert or replace bytes."""
    data = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        length = random.choice([1, 2, 8, 64])
        match random.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at:at] = random.randbytes(length)
            case 4:
                del data[at : at + length]
            case _:
                data[at : at + length] = random.choice([b"\xff", b"\x00", b"\x80"]) * length
    return bytes(data)


def send(server: ServerProcess, method: Any, messages: Sequence[bytes]) -> grpc.StatusCode:
    kinds = {False: "unary", True: "stream"}
    kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
    call = getattr(server.channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    sent = iter(messages) if method.client_streaming else messages[0]
    try:
        answer = call(sent, timeout=SECONDS)
        if method.server_streaming:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def failures(api: Api) -> Iterator[str]:
    """The reasons of the adaptations that have failed."""
    token = ""
    while True:
        request = ListAdaptationsRequest(state=FAILED, page_size=500, page_token=token)
        page = api.adaptations.ListAdaptations(request, timeout=60)
        yield from (each.failure.reason for each in page.adaptations)
        token = page.next_page_token
        if not token:
            return


@pytest.mark.slow
@pytest.mark.timeout(300 + MESSAGES)
def test_mutated_messages(server: ServerProcess, api: Api, data: Path) -> None:
    random, codes = Random(SEED), Counter[tuple[str, grpc.StatusCode]]()
    made = api.end_of(api.create(spec(), images()).name)
    names = [made.name, made.model, made.model.removeprefix("models/")]
    wrong = []
    for number in range(MESSAGES):
        method = METHODS[number % len(METHODS)]
        messages = sound(method, names, random)
        chosen = random.randrange(len(messages))
        messages[chosen] = mutated(messages[chosen], random)
        code = send(server, method, messages)
        codes[method.name, code] += 1
        if code in WRONG:
            wrong.append((method.full_name, messages[chosen][:200]))
    for (name, code), count in sorted(codes.items(), key=str):
        print(f"{name:24} {code.name:20} {count}")
    assert not wrong
    assert set(failures(api)).isdisjoint({"INTERNAL", "WORKER_LOST"})
    log = data.with_suffix(".log")
    assert "Traceback" not in log.read_text(encoding="utf-8")
    assert log.stat().st_size < MOST_LOG_BYTES
    assert api.get(made.name) == made
