"""Uploads that stop in the middle: they end, and hold no other caller up."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc

from metanas_protos.v1.adaptation_service_pb2 import CreateAdaptationRequest
from tests.server.calls import images, parts, refused, spec
from tests.server.processes import serving


def test_an_upload_that_stops_is_ended(checkpoints: Path, tmp_path: Path) -> None:
    over = threading.Event()

    def stalled() -> Iterator[CreateAdaptationRequest]:
        yield from parts(spec(), images())
        over.wait(60)

    flags = ("--upload-idle-seconds=0.5", "--max-upload-bytes=10000")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        refusal = refused(server.api.adaptations.CreateAdaptation, stalled())
        over.set()
        assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert refusal.reason == "UPLOAD_TOO_SLOW"
        server.api.serves()  # its bytes have been given back


def test_an_upload_that_trickles_is_ended(checkpoints: Path, tmp_path: Path) -> None:
    over = threading.Event()

    def trickling() -> Iterator[CreateAdaptationRequest]:
        for part in parts(spec(), images() * 500):
            yield part
            if over.wait(0.05):
                return

    with serving(checkpoints, tmp_path / "data", "--upload-seconds=1") as server:
        refusal = refused(server.api.adaptations.CreateAdaptation, trickling())
        over.set()
        assert refusal.reason == "UPLOAD_TOO_SLOW"
        server.api.serves()
