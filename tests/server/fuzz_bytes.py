"""Mutated frames of HTTP/2, and mutated requests of the studio's HTTP, sent by plain sockets."""

import json
import re
import socket
from collections.abc import Sequence
from random import Random

from tests.server.fuzz_messages import METHODS, Target, mutated, mutated_photo, sound
from tests.server.soak_calls import HELLO
from tests.server.studio_calls import BOUNDARY, multipart

SECONDS = 60.0
STUDIO_SECONDS = 0.5
"""Wait for an answer of the studio: a request that lost its end gets none."""
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
PATHS = (
    ("GET", "/"),
    ("GET", "/static/studio.css"),
    ("GET", "/api/server"),
    ("GET", "/api/adaptations/{job}"),
    ("GET", "/api/adaptations/{job}/events?after=1"),
    ("POST", "/api/adaptations/{job}/cancel"),
    ("GET", "/api/models/{model}"),
    ("GET", "/api/models/{model}/model.onnx?precision=float16"),
    ("GET", "/api/models/{model}/model.zip"),
)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind & 255, flags & 255])
    return head + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a header in HPACK, neither indexed nor compressed."""
    return b"\0" + b"".join(bytes([len(text)]) + text for text in (name, value))


def call_frames(random: Random, path: bytes, message: bytes) -> bytes:
    """Return the frames of a call, with some others between them."""
    fields = {b":method": b"POST", b":scheme": b"http", b":path": path[:120]}
    fields |= {b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers"}
    block = b"".join(header(*each) for each in fields.items())
    body = b"\0" + len(message).to_bytes(4, "big") + message
    frames = [
        frame(HEADERS, END_HEADERS, 1, block),
        frame(DATA, END_STREAM, 1, body[:16000]),
    ]
    for _ in range(random.randrange(4)):
        payload = random.randbytes(random.choice([0, 4, 5, 8, 6, 30]))
        other = frame(random.randrange(11), random.getrandbits(8), random.randrange(5), payload)
        frames.insert(random.randrange(3), other)
    return b"".join(frames)


def fuzz_frames(target: Target, random: Random, photos: Sequence[bytes]) -> tuple[str, str]:
    """Send mutated frames and wait until the server closes the connection."""
    method = random.choice(METHODS)
    message = sound(method, target, random, photos)[0]
    path = f"/{method.containing_service.full_name}/{method.name}".encode()
    frames = call_frames(random, path, message)
    sent = HELLO + mutated(frames, random)
    if random.random() < 0.1:
        sent = mutated(sent, random)
    host, _, port = target.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    except TimeoutError:
        return "frames of HTTP/2", "HANG"
    except OSError:
        return "frames of HTTP/2", "reset"
    return "frames of HTTP/2", "closed"


def request_of(target: Target, random: Random, photos: Sequence[bytes]) -> bytes:
    """Return a sound request to the studio."""
    method, path = random.choice(
        [*PATHS, ("POST", "/api/adaptations"), ("POST", "/api/adaptations")]
    )
    job = target.adaptation.removeprefix("adaptations/")
    body, kind = b"", "application/json"
    if path == "/api/adaptations":
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        options = {"steps": 1, "tuning_steps": 1}
        fields = {"checkpoint": "grey", "labels": ["a", "b"], "options": options}
        files = [("images", mutated_photo(photos, random)), ("images", random.choice(photos))]
        body = multipart([("spec", mutated(json.dumps(fields).encode(), random)), *files])
    lines = [f"{method} {path.format(job=job, model=target.model)} HTTP/1.1"]
    lines += [f"host: {target.studio}", "connection: close", f"content-type: {kind}"]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def fuzz_studio(target: Target, random: Random, photos: Sequence[bytes]) -> tuple[str, str]:
    """Send a mutated request to the studio; return its status, or `none` without an answer."""
    sent = request_of(target, random, photos)
    sent = mutated(sent, random) if random.random() < 0.8 else sent
    host, _, port = target.studio.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(sent)
            connection.settimeout(STUDIO_SECONDS)
            found = re.match(rb"HTTP/1.1 (\d+)", connection.recv(4096))
    except OSError:  # also a timeout
        return "HTTP of the studio", "none"
    return "HTTP of the studio", found[1].decode() if found else "none"
