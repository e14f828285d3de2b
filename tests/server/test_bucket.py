"""A server with its artefacts in a bucket: the same answers, and patience while it is away."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from obstore.store import S3Store

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest
from metanas_server.storage.artefacts import MARK
from metanas_server.storage.folder_store import FolderStore
from tests.server.calls import LONG, RUNNING, SUCCEEDED, Api, images, refused, spec
from tests.server.processes import ENVIRONMENT, ServerProcess, maintain, serving
from tests.server.s3 import Bucket

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
WRITES = "metanas.v1.AdaptationService"
SOME = AdaptationOptions(steps=30)
PLACE = "--artefacts=s3://bucket/server"


@pytest.fixture(scope="module")
def environment(bucket: Bucket) -> dict[str, str]:
    return {**ENVIRONMENT, **bucket.environment}


@pytest.fixture(scope="module")
def server(checkpoints: Path, data: Path, environment: dict[str, str]) -> Iterator[ServerProcess]:
    with serving(checkpoints, data, PLACE, "--max-stack=1", environment=environment) as running:
        yield running


@pytest.fixture
def keys(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store.from_url("s3://bucket/server", client_options={"allow_http": True})


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is met."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def names(keys: S3Store, folder: str = "") -> set[str]:
    """Return the names below a folder, without the mark of the database."""
    paths = {each["path"] for page in keys.list(folder) for each in page}
    return {path.removeprefix(f"{folder}/") for path in paths} - {MARK}


def test_models_are_in_the_bucket_until_they_are_deleted(
    api: Api, keys: S3Store, data: Path
) -> None:
    answer = api.adapt(spec(), images())
    digest, model = answer.model.sha256, answer.model.name
    assert hashlib.sha256(answer.onnx).hexdigest() == digest
    until(lambda: names(keys) == {digest})  # the support set has gone
    assert not (data / "artefacts").exists()
    keys.put(digest, answer.onnx[:-1])
    assert refused(api.download, model).reason == "ARTEFACT_DAMAGED"
    keys.put(digest, answer.onnx)
    assert b"".join(chunk.data for chunk in api.download(model)) == answer.onnx
    api.models.DeleteModel(DeleteModelRequest(name=model))
    assert names(keys) == set()


def test_jobs_wait_for_a_bucket_that_fails(server: ServerProcess, api: Api, bucket: Bucket) -> None:
    running = api.create(spec(options=LONG), images()).name
    waiting = api.create(spec(seed=5), images()).name
    api.until_running(running)
    health = server.health(WRITES)
    assert next(health) == SERVING
    with bucket.failing("503 Slow Down"):
        answer = refused(api.create, spec(seed=7), images(seed=7))
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
        assert answer.retry_seconds
        assert next(health) == NOT_SERVING
        api.cancel(running)  # the next one starts, and needs its support set
        until(lambda: api.get(waiting).state == RUNNING)
    assert next(health) == SERVING
    assert api.end_of(waiting).state == SUCCEEDED


def test_a_killed_server_finds_everything_again(
    checkpoints: Path, tmp_path: Path, environment: dict[str, str], keys: S3Store
) -> None:
    data, place = tmp_path / "data", f"{PLACE}/killed"
    with serving(checkpoints, data, place, environment=environment) as first:
        done = first.api.adapt(spec(), images())
        unfinished = first.api.create(spec(options=SOME), images(seed=3)).name
        first.api.until_running(unfinished)
        first.kill()
    with serving(checkpoints, data, place, environment=environment) as second:
        ended = second.api.end_of(unfinished)
        assert ended.state == SUCCEEDED
        made = second.api.model(ended.model).sha256
        until(lambda: names(keys, "killed") == {done.model.sha256, made})
        backup = str(tmp_path / "backup")
        line = maintain("backup", f"--data={data}", place, backup, environment=environment)
        assert line.startswith("copied the database and 2 files")
    assert FolderStore(tmp_path / "backup" / "artefacts").digests() == {done.model.sha256, made}
    keys.put(f"killed/{made}", b"damaged")
    lines = maintain("repair", f"--data={data}", place, environment=environment)
    assert f"the file {made} has changed" in lines
    assert names(keys, "killed") == {done.model.sha256, f"quarantine/{made}"}
    maintain("restore", f"--data={data}", place, backup, environment=environment)
    assert made in names(keys, "killed")
