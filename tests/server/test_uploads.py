"""Uploads that stop in the middle or are too many, and the callers that they count for."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.adaptation_service_pb2 import CreateAdaptationRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import LONG, images, parts, refusal_of, refused, spec
from tests.server.processes import serving
from tests.server.scrapes import until, url_of


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


def test_uploads_and_health_watches_of_a_stopping_server(checkpoints: Path, tmp_path: Path) -> None:
    """They end with a reason: an upload at once, a watch at the end of the last adaptation."""
    over, method = threading.Event(), "metanas.v1.AdaptationService/CreateAdaptation"

    def stalled() -> Iterator[CreateAdaptationRequest]:
        yield from parts(spec(), images())
        over.wait(60)

    with serving(checkpoints, tmp_path / "data", "--metrics=0") as server:
        upload = server.api.adaptations.CreateAdaptation.future(stalled())
        until(url_of(server), lambda now: now.get("metanas_rpcs_in_progress", method=method) == 1)
        watch = server.health()
        assert next(watch) == HealthCheckResponse.SERVING
        server.process.terminate()
        refusals = [refused(upload.result), refused(list, watch)]
        over.set()
        for refusal in refusals:
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "SERVER_STOPPING",
            )
        assert server.process.wait(timeout=60) == 0


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


def test_an_upload_counts_from_its_first_moment(checkpoints: Path, tmp_path: Path) -> None:
    """An open call without a message is an upload; its end makes room for the next one."""
    over = threading.Event()

    def silent() -> Iterator[CreateAdaptationRequest]:
        over.wait(60)
        yield from parts(spec(), images())

    with serving(checkpoints, tmp_path / "data", "--max-uploads-per-caller=1") as server:
        create = server.api.adaptations.CreateAdaptation
        open_call, refusal = create.future(silent()), None
        while refusal is None:  # until the open call has arrived
            if open_call.done():  # it arrived second
                open_call = create.future(silent())
            try:
                server.api.create(spec(), images())
            except grpc.RpcError as error:
                refusal = refusal_of(error)
        assert (refusal.reason, refusal.retry_seconds) == ("UPLOADS_FULL", 2.0)
        over.set()
        assert open_call.result().adaptation.name
        server.api.serves()


@pytest.mark.parametrize(
    ("flag", "reason"),
    [("--max-queue=1", "QUEUE_FULL"), ("--max-jobs-per-caller=1", "CALLER_QUOTA")],
)
def test_an_upload_has_a_place_in_the_queue(
    flag: str, reason: str, checkpoints: Path, tmp_path: Path
) -> None:
    """Others are refused before it has arrived whole, and have room when it was broken off.

    A request with one class is refused in any case, and finds out if there is room.
    """
    with serving(checkpoints, tmp_path / "data", flag) as server:
        create = server.api.adaptations.CreateAdaptation

        def reason_now() -> str:
            return refused(server.api.create, spec(), images(("a",))).reason

        for end in ("complete", "broken off"):
            over = threading.Event()

            def slow(over: threading.Event = over) -> Iterator[CreateAdaptationRequest]:
                first, *others = parts(spec(), images())
                yield first
                over.wait(60)
                yield from others

            upload = create.future(slow())
            while reason_now() != reason:
                if upload.done():  # it came while the request of `reason_now` had the place
                    upload = create.future(slow())
            if end == "complete":
                over.set()
                assert upload.result().adaptation.name
            upload.cancel()
            over.set()
            while reason_now() != "ONE_CLASS":
                pass


def test_each_name_of_a_token_is_a_caller(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    one, same, two = (tokens.create(path, name, Role.USE) for name in ("one", "one", "two"))
    flags = ("--token-file", str(path), "--max-jobs-per-caller=1")
    with serving(checkpoints, tmp_path / "data", *flags) as server:

        def create(token: str) -> None:
            server.api_of(token).create(spec(options=LONG), images())

        create(one)
        create(two)
        for token in (one, same, two):
            assert refused(create, token).reason == "CALLER_QUOTA"


def test_without_tokens_each_address_is_a_caller(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data", "--max-jobs-per-caller=1") as server:

        def create(token: str) -> None:
            server.api_of(token).create(spec(options=LONG), images())

        create("one")
        assert refused(create, "two").reason == "CALLER_QUOTA"
