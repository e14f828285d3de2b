"""HTTP requests to the studio for tests, and a server that has one."""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.server.processes import ENVIRONMENT, ServerProcess, serving

BOUNDARY = "studio"
SECONDS = 60


@dataclass(frozen=True)
class Reply:
    """An answer of the studio."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Studio:
    """A server with a studio."""

    def __init__(self, server: ServerProcess, address: str, token: str = "") -> None:
        self.server = server
        self.address = address
        self._token = {"authorization": f"Bearer {token}"} if token else {}

    def with_token(self, token: str) -> "Studio":
        return Studio(self.server, self.address, token)

    def call(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
        try:
            connection.request(method, path, body, {**self._token, **(headers or {})})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())
        finally:
            connection.close()

    def post(self, body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> Reply:
        headers = {"content-type": kind}
        return self.call("/api/adaptations", method="POST", body=body, headers=headers)

    def create(self, images: Sequence[tuple[str, bytes]], **spec: object) -> Reply:
        fields = {"checkpoint": "grey", **spec, "labels": [label for label, _ in images]}
        parts = [("spec", json.dumps(fields).encode())]
        return self.post(multipart([*parts, *(("images", data) for _, data in images)]))

    def leave_during_upload(self) -> None:
        """Begin an upload, and close the connection before its end."""
        host, _, port = self.address.partition(":")
        headers = {
            "host": host,
            "content-length": "1000",
            "content-type": "multipart/form-data; boundary=x",
            **self._token,
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection((host, int(port)), timeout=SECONDS) as upload:
            request = "\r\n".join(("POST /api/adaptations HTTP/1.1", *lines, "", "--x"))
            upload.sendall(request.encode())

    def follow(self, id_: str) -> list[tuple[str, Any]]:
        """Return the events of an adaptation to its end."""
        text = self.call(f"/api/adaptations/{id_}/events").body.decode()
        found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
        return [(name, json.loads(data)) for name, data in found]


def multipart(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the body of an upload."""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="%s"; filename="x"\r\n\r\n'
    body = b"".join((head % name).encode() + data + b"\r\n" for name, data in parts)
    return body + f"--{BOUNDARY}--\r\n".encode()


def png(seed: int, folder: Path, size: int = 12) -> bytes:
    """Return an image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    path = folder / f"{seed}.png"
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def support(folder: Path) -> list[tuple[str, bytes]]:
    """Return two images of each of two classes."""
    return [(label, png(i, folder)) for i, label in enumerate(("a", "b", "a", "b"))]


@contextmanager
def studio_of(
    checkpoints: Path, data: Path, *flags: str, environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[Studio]:
    """Start a server with a studio on a free port."""
    start = serving(checkpoints, data, "--studio=127.0.0.1:0", *flags, environment=environment)
    with start as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline().strip()
        assert line.startswith("studio ready on http://")
        yield Studio(server, line.split("//")[1].rstrip("/"))
