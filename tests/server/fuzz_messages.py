"""Mutated messages of each method, and mutated images, sent by gRPC."""

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Any

import grpc
import PIL.Image
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
from tests.server.calls import images, parts, refusal_of, spec
from tests.server.queries import file_query, pixels, raw_query

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
CREATE, INFER = (
    next(each for each in METHODS if each.name == name)
    for name in ("CreateAdaptation", "ModelInfer")
)
SECONDS = 60.0
"""Time limit of a call; a call without an answer until then is a hang."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Target:
    """The server under test, and names that exist there; the victims may be deleted."""

    channel: Any
    address: str
    studio: str
    adaptation: str
    model: str
    victims: Sequence[str]


def upload(random: Random, photo: bytes) -> list[bytes]:
    """Return the messages of a sound request with one image file."""
    settings = spec(
        checkpoint=random.choice(["checkpoints/grey", "colour"]),
        options=AdaptationOptions(steps=2, tuning_steps=1, weight_lr=0.01),
        seed=random.getrandbits(32),
        classes=[b"a", b"b"],
        request_id=str(random.random()),
    )
    file = example_pb2.Example(label=b"a", encoded=photo)
    support = [*images(seed=random.getrandbits(16)), file]
    return [each.SerializeToString() for each in parts(settings, support)]


def sound(method: Any, target: Target, random: Random, photos: Sequence[bytes]) -> list[bytes]:
    """Return messages of a call that would succeed, or nearly."""
    if method is CREATE:
        return upload(random, random.choice(photos))
    if method is INFER:
        query = random.choice(
            [raw_query(target.model, pixels()), file_query(target.model, random.sample(photos, 2))]
        )
        return [query.SerializeToString()]
    module = next(module for module, name in SERVICES if method.containing_service.name == name)
    message = getattr(module, method.input_type.name)()
    names = [target.adaptation, f"models/{target.model}", target.model, "grey", ""]
    if method.name.startswith("Delete"):
        names = [*target.victims, ""]
    for field in method.input_type.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, random.choice(names))
        elif field.type in (field.TYPE_INT32, field.TYPE_INT64) and not field.is_repeated:
            setattr(message, field.name, random.choice([0, 1, 5, 2**31 - 1]))
    return [message.SerializeToString()]


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


def make_photos(random: Random) -> list[bytes]:
    """Return small files of all formats and modes, also of formats that the server refuses."""
    made = []
    kinds: tuple[tuple[str, str, dict[str, Any]], ...] = (
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08" + bytes(40)}),
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        *(
            ("WebP", mode, {"lossless": lossless})
            for mode in ("RGB", "RGBA")
            for lossless in (0, 1)
        ),
        *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
        *((kind, "RGB", {}) for kind in ("GIF", "TIFF", "PPM", "ICO", "TGA")),
    )
    for kind, mode, extra in kinds:
        for side in (2, 17, 90):
            noise = PIL.Image.frombytes(
                "RGB", (side, side + 1), random.randbytes(3 * side * (side + 1))
            )
            file = BytesIO()
            noise.convert("I;16" if mode == "I;16" else mode).save(file, kind, **extra)
            made.append(file.getvalue())
    return made


def mutated_photo(photos: Sequence[bytes], random: Random) -> bytes:
    """Mutate a file; half of the PNG files get sound checksums again."""
    photo = mutated(random.choice(photos), random)
    if photo.startswith(SIGNATURE) and random.random() < 0.5:
        return with_checksums(photo)
    return photo


def with_checksums(png: bytes) -> bytes:
    """Write the checksum of each chunk, so that the content of the chunks is read."""
    data, at = bytearray(png), len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = min(at + 8 + length, len(data) - 4)
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def send_message(target: Target, method: Any, messages: Sequence[bytes]) -> str:
    """Send messages to a method; return the code of the answer, or HANG."""
    kinds = {False: "unary", True: "stream"}
    kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
    call = getattr(target.channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    sent = iter(messages) if method.client_streaming else messages[0]
    try:
        answer = call(sent, timeout=SECONDS)
        if method.server_streaming:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as error:
        return code_of(error)
    return "OK"


def code_of(error: grpc.RpcError) -> str:
    """Return the code of an error; HANG and LOST are not from the server, but from the client."""
    name: str = error.code().name
    own = {"DEADLINE_EXCEEDED": "HANG", "UNAVAILABLE": "LOST"}
    with suppress(AssertionError):
        refusal_of(error)
        return name
    return own.get(name, name)


def fuzz_method(target: Target, random: Random, photos: Sequence[bytes]) -> tuple[str, str]:
    """Send a call of a random method with one mutated message."""
    method = random.choice(METHODS)
    messages = sound(method, target, random, photos)
    chosen = random.randrange(len(messages))
    messages[chosen] = mutated(messages[chosen], random)
    return method.name, send_message(target, method, messages)


def fuzz_image(target: Target, random: Random, photos: Sequence[bytes]) -> tuple[str, str]:
    """Send a mutated image in a query or in an upload."""
    photo = mutated_photo(photos, random)
    if random.random() < 0.5:
        query = file_query(target.model, [photo]).SerializeToString()
        return "image in a query", send_message(target, INFER, [query])
    return "image in an upload", send_message(target, CREATE, upload(random, photo))
