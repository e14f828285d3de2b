"""The audit log: one line for each creation, download, cancellation, deletion and refusal."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metanas_protos.v1.adaptation_service_pb2 import DeleteAdaptationRequest
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest, ListModelsRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import LONG, Api, image, images, refused, spec
from tests.server.processes import ServerProcess, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audited")


@pytest.fixture(scope="module")
def secrets(folder: Path) -> dict[str, str]:
    return {name: tokens.create(folder / "tokens", name, Role.USE) for name in ("one", "two")}


@pytest.fixture(scope="module")
def server(checkpoints: Path, folder: Path, secrets: dict[str, str]) -> Iterator[ServerProcess]:
    flags = ("--token-file", str(folder / "tokens"), "--audit-log", str(folder / "audit"))
    with serving(checkpoints, folder / "data", *flags) as running:
        yield running


@pytest.fixture
def api(server: ServerProcess, secrets: dict[str, str]) -> Api:
    """The stubs of the caller `one`."""
    return server.api_of(secrets["one"])


@pytest.fixture
def log(folder: Path) -> Path:
    """The audit log, empty at the beginning of a test."""
    (folder / "audit").unlink(missing_ok=True)
    return folder / "audit"


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def shown(log: Path) -> list[tuple[str, str, str, str]]:
    return [(e["caller"], e["call"], e["resource"], e["result"]) for e in lines(log)]


def test_the_life_of_an_adaptation(api: Api, log: Path) -> None:
    made = api.adapt(spec(), images())
    adaptation, model = made.adaptation.name, made.model.name
    running = api.create(spec(options=LONG), images()).name
    api.cancel(running)
    api.adaptations.DeleteAdaptation(DeleteAdaptationRequest(name=adaptation))
    api.models.DeleteModel(DeleteModelRequest(name=model))
    assert shown(log) == [
        ("one", "AdaptationService/CreateAdaptation", adaptation, "OK"),
        ("one", "ModelService/DownloadModel", model, "OK"),
        ("one", "AdaptationService/CreateAdaptation", running, "OK"),
        ("one", "AdaptationService/CancelAdaptation", running, "OK"),
        ("one", "AdaptationService/DeleteAdaptation", adaptation, "OK"),
        ("one", "ModelService/DeleteModel", model, "OK"),
    ]
    assert all(entry["address"].startswith("ipv4:127.0.0.1:") for entry in lines(log))
    assert all("+00:00" in entry["time"] for entry in lines(log))
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_refusals_are_logged_of_all_calls(
    server: ServerProcess, api: Api, secrets: dict[str, str], log: Path
) -> None:
    name = api.create(spec(options=LONG), images()).name
    log.unlink()
    refused(server.api.models.ListModels, ListModelsRequest())
    refused(server.api_of(secrets["two"]).get, name)
    refused(api.create, spec(), [image("a")])
    refused(api.model, "models/" + "x" * 1000)
    assert shown(log) == [
        ("", "ModelService/ListModels", "", "UNAUTHENTICATED"),
        ("two", "AdaptationService/GetAdaptation", name, "UNKNOWN_ADAPTATION"),
        ("one", "AdaptationService/CreateAdaptation", "", "ONE_CLASS"),
        ("one", "ModelService/GetModel", ("models/" + "x" * 1000)[:256], "UNKNOWN_MODEL"),
    ]
    api.cancel(name)


def test_a_name_cannot_forge_a_line(api: Api, log: Path) -> None:
    forged = 'models/x"}\n{"caller": "two"}'
    refused(api.model, forged)
    assert [entry["resource"] for entry in lines(log)] == [forged]


def test_calls_go_on_without_a_writable_log(checkpoints: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "audit"
    log.parent.mkdir()
    with serving(checkpoints, tmp_path / "data", "--audit-log", str(log)) as server:
        log.unlink()
        log.parent.rmdir()
        server.api.serves()
    assert "cannot write the audit log" in (tmp_path / "data.log").read_text(encoding="utf-8")
