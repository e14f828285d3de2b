"""Models that are shared with other callers, and pinned ones, on a real server."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.v1.adaptation_service_pb2 import (
    CancelAdaptationRequest,
    DeleteAdaptationRequest,
    GetAdaptationRequest,
    WatchAdaptationRequest,
)
from metanas_protos.v1.model_pb2 import Model, ModelVariant
from metanas_protos.v1.model_service_pb2 import (
    DeleteModelRequest,
    DownloadModelRequest,
    ListModelsRequest,
    UpdateModelRequest,
)
from metanas_server.api.convert import LEAST_UNSHARED
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from metanas_server.records.address import DATABASE
from metanas_server.resources import State
from metanas_server.storage.archive import open_archive
from metanas_server.storage.artefacts import sha256
from tests.server.calls import Api, images, parts, refused, spec, with_token
from tests.server.processes import ServerProcess, serving
from tests.server.queries import Queries, pixels, raw_query
from tests.server.test_parts import MODEL, RECORD

NAMES = {
    "ann": Role.USE,
    "bob": Role.USE,
    "eve": Role.USE,
    "reader": Role.READ,
    "chief": Role.ADMIN,
}
REPORT = '{"genotype": {}, "seconds": {}, "leave_one_out": 0.5}'
LARGE = 32 * 2**20
"""Bytes of a file that does not fit into the buffers of a connection."""


class Callers(NamedTuple):
    """A server with callers, a model of ann, and the audit log."""

    server: ServerProcess
    secrets: dict[str, str]
    model: str
    audit: Path

    def api(self, name: str) -> Api:
        return self.server.api_of(self.secrets[name])

    def queries(self, name: str) -> Queries:
        return Queries(with_token(self.server.channel, self.secrets[name]))

    @property
    def id(self) -> str:
        return self.model.removeprefix("models/")


@pytest.fixture(scope="module")
def callers(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    folder = tmp_path_factory.mktemp("sharing")
    secrets = {name: tokens.create(folder / "tokens", name, role) for name, role in NAMES.items()}
    flags = ["--token-file", str(folder / "tokens"), "--audit-log", str(folder / "audit")]
    flags += ["--max-pinned-per-caller=1", "--max-shares-per-model=3"]
    with serving(checkpoints, folder / "data", *flags) as server:
        made = server.api_of(secrets["ann"]).adapt(spec(), images())
        yield Callers(server, secrets, made.model.name, folder / "audit")


@pytest.fixture(autouse=True)
def _private(callers: Callers) -> Iterator[None]:
    """Make the model private again after each test."""
    yield
    shared = callers.api("ann").model(callers.model).shared_with
    update(callers.api("ann"), callers.model, unshare=shared, pinned=False)


def update(api: Api, name: str, **fields: Any) -> Model:
    return api.models.UpdateModel(UpdateModelRequest(name=name, **fields), timeout=60).model


def listed(api: Api, *, shared: bool) -> list[Model]:
    return list(api.models.ListModels(ListModelsRequest(shared=shared), timeout=60).models)


def unknown(do: Any, *arguments: Any) -> bool:
    """Return True if a call is answered as if the resource did not exist."""
    refusal = refused(do, *arguments)
    return refusal.code is grpc.StatusCode.NOT_FOUND


def can_read(callers: Callers, name: str) -> bool:
    """Return True if a caller can use a model in all ways, False if in none."""
    api, queries, id_ = callers.api(name), callers.queries(name), callers.id
    query, stub = raw_query(id_, pixels()), queries.stub
    if callers.model in [model.name for model in listed(api, shared=True)]:
        model = api.model(callers.model)
        assert (model.owner, model.pinned, list(model.shared_with)) == ("ann", False, [])
        assert model.report.ways == 2
        assert b"".join(chunk.data for chunk in api.download(callers.model))
        assert api.download(callers.model, variant=ModelVariant(opset=14))
        assert queries.infer(query).outputs
        assert stub.ModelReady(protocol.ModelReadyRequest(name=id_)).ready
        assert stub.ModelMetadata(protocol.ModelMetadataRequest(name=id_)).outputs
        assert stub.ModelConfig(protocol.ModelConfigRequest(name=id_)).config.name == id_
        index = stub.RepositoryIndex(protocol.RepositoryIndexRequest())
        assert id_ in [model.name for model in index.models]
        return True
    assert unknown(api.model, callers.model)
    assert unknown(api.download, callers.model)
    assert unknown(queries.infer, query)
    assert unknown(stub.ModelMetadata, protocol.ModelMetadataRequest(name=id_))
    assert unknown(stub.ModelConfig, protocol.ModelConfigRequest(name=id_))
    assert not stub.ModelReady(protocol.ModelReadyRequest(name=id_)).ready
    assert not stub.RepositoryIndex(protocol.RepositoryIndexRequest()).models
    return False


def test_sharing_and_its_end(callers: Callers) -> None:
    ann = callers.api("ann")
    assert not can_read(callers, "bob")
    shown = update(ann, callers.model, share_with=["bob", "reader"])
    assert (shown.owner, list(shown.shared_with)) == ("", ["bob", "reader"])
    assert [can_read(callers, name) for name in ("bob", "reader", "eve")] == [True, True, False]
    update(ann, callers.model, unshare=["bob"])
    assert [can_read(callers, name) for name in ("bob", "reader", "eve")] == [False, True, False]
    update(ann, callers.model, share_with=["*"])
    assert [can_read(callers, name) for name in ("bob", "reader", "eve")] == [True, True, True]
    update(ann, callers.model, unshare=["*"])
    assert [can_read(callers, name) for name in ("bob", "reader", "eve")] == [False, True, False]


def test_a_shared_model_is_not_among_one_s_own(callers: Callers) -> None:
    """Else a caller could put a model into the lists of all others."""
    update(callers.api("ann"), callers.model, share_with=["*"])
    assert listed(callers.api("bob"), shared=False) == []
    assert callers.model not in [each.name for each in listed(callers.api("ann"), shared=True)]
    [seen] = [
        each for each in listed(callers.api("chief"), shared=False) if each.name == callers.model
    ]
    assert (seen.owner, list(seen.shared_with)) == ("ann", ["*"])


def test_those_that_it_is_shared_with_change_nothing(callers: Callers) -> None:
    update(callers.api("ann"), callers.model, share_with=["bob", "*"])
    bob, stub = callers.api("bob"), callers.queries("bob").stub
    adaptation = f"adaptations/{callers.id}"
    calls: list[tuple[Any, Any]] = [
        (bob.models.DeleteModel, DeleteModelRequest(name=callers.model)),
        (bob.models.UpdateModel, UpdateModelRequest(name=callers.model, pinned=True)),
        (bob.models.UpdateModel, UpdateModelRequest(name=callers.model, share_with=["eve"])),
        (bob.models.UpdateModel, UpdateModelRequest(name=callers.model, unshare=["*"])),
        (bob.models.UpdateModel, UpdateModelRequest(name=callers.model)),
        (bob.adaptations.GetAdaptation, GetAdaptationRequest(name=adaptation)),
        (bob.adaptations.CancelAdaptation, CancelAdaptationRequest(name=adaptation)),
        (bob.adaptations.DeleteAdaptation, DeleteAdaptationRequest(name=adaptation)),
        (
            lambda request: list(bob.adaptations.WatchAdaptation(request)),
            WatchAdaptationRequest(name=adaptation),
        ),
        (
            stub.RepositoryModelUnload,
            protocol.RepositoryModelUnloadRequest(model_name=callers.id),
        ),
        (stub.ModelStatistics, protocol.ModelStatisticsRequest(name=callers.id)),
    ]
    for call, request in calls:
        assert unknown(call, request), request
    assert not stub.ModelStatistics(protocol.ModelStatisticsRequest()).model_stats
    shown = callers.api("ann").model(callers.model)
    assert (shown.pinned, list(shown.shared_with)) == (False, ["*", "bob"])


def test_a_reader_needs_the_role_to_share(callers: Callers) -> None:
    request = UpdateModelRequest(name=callers.model, pinned=True)
    answer = refused(callers.api("reader").models.UpdateModel, request)
    assert (answer.code, answer.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "ROLE_INSUFFICIENT",
    )


@pytest.mark.parametrize("name", ["", "**", "a b", "-", "x" * 65, "x" * 100_000, "ann\n", "é"])
def test_names_that_no_caller_can_have(callers: Callers, name: str) -> None:
    for field in ("share_with", "unshare"):
        fields: dict[str, Any] = {field: ["bob", name]}
        request = UpdateModelRequest(name=callers.model, **fields)
        answer = refused(callers.api("ann").models.UpdateModel, request)
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
        assert answer.violations == [(f"{field}[1]", "CALLER_NAME")]
    assert not callers.api("ann").model(callers.model).shared_with


def test_limits_of_names(callers: Callers) -> None:
    ann = callers.api("ann")
    request = UpdateModelRequest(name=callers.model, share_with=["bob"] * 20_000)
    assert refused(ann.models.UpdateModel, request).reason == "TOO_MANY_NAMES"
    update(ann, callers.model, share_with=["bob", "eve", "nobody-yet"])
    request = UpdateModelRequest(name=callers.model, share_with=["reader"])
    answer = refused(ann.models.UpdateModel, request)
    assert (answer.reason, answer.retry_seconds) == ("SHARES_FULL", None)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert list(ann.model(callers.model).shared_with) == ["bob", "eve", "nobody-yet"]
    # more names than allowed can be removed: the limit may have been higher before
    others = [f"n{number}" for number in range(LEAST_UNSHARED - 3)]
    left = update(ann, callers.model, unshare=["bob", "eve", "nobody-yet", *others])
    assert list(left.shared_with) == []
    request = UpdateModelRequest(name=callers.model, unshare=["bob"] * (LEAST_UNSHARED + 1))
    assert refused(ann.models.UpdateModel, request).reason == "TOO_MANY_NAMES"


def test_pins(callers: Callers) -> None:
    ann, chief = callers.api("ann"), callers.api("chief")
    other = ann.adapt(spec(seed=2), images()).model.name
    assert update(ann, callers.model, pinned=True).pinned
    for api in (ann, chief):
        answer = refused(api.models.UpdateModel, UpdateModelRequest(name=other, pinned=True))
        assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PINS_FULL")
        assert "unpin or delete one" in answer.message
    assert not update(chief, callers.model, pinned=False).pinned
    assert update(ann, other, pinned=True).pinned
    ann.models.DeleteModel(DeleteModelRequest(name=other))
    assert unknown(ann.model, other)


def test_changes_are_in_the_audit_log(callers: Callers) -> None:
    ann = callers.api("ann")
    callers.audit.unlink()
    update(ann, callers.model, share_with=["bob"], pinned=True)
    update(ann, callers.model, unshare=["bob"])
    refused(callers.api("bob").models.UpdateModel, UpdateModelRequest(name=callers.model))
    lines = [json.loads(line) for line in callers.audit.read_text(encoding="utf-8").splitlines()]
    keys = ("caller", "call", "resource", "result", "change")
    call = "ModelService/UpdateModel"
    assert [tuple(line.get(key) for key in keys) for line in lines] == [
        ("ann", call, callers.model, "OK", {"share_with": ["bob"], "pinned": True}),
        ("ann", call, callers.model, "OK", {"unshare": ["bob"]}),
        ("bob", call, callers.model, "UNKNOWN_MODEL", None),
    ]


async def store_large(data: Path) -> None:
    """Store a model of ann whose file does not fit into the buffers of a connection."""

    async def nothing() -> None:
        pass

    data.mkdir()
    archive = open_archive(data, data / DATABASE, nothing)
    onnx = np.random.default_rng(0).bytes(LARGE)
    record = await archive.add(replace(RECORD, id="large", owner="ann"), (b"support",))
    ended = replace(record, state=State.SUCCEEDED, end_time=1, support="", model="large")
    digest = sha256((onnx,))
    made = replace(MODEL, id="large", owner="ann", report_json=REPORT)
    model = replace(made, sha256=digest, size_bytes=len(onnx))
    await archive.finish(ended, (), model, onnx)
    await archive.close()


async def test_a_download_ends_with_the_sharing(checkpoints: Path, tmp_path: Path) -> None:
    await store_large(tmp_path / "data")
    path = tmp_path / "tokens"
    ann, bob = (tokens.create(path, name, Role.USE) for name in ("ann", "bob"))
    with serving(checkpoints, tmp_path / "data", "--token-file", str(path)) as server:
        owner, reader = server.api_of(ann), server.api_of(bob)
        update(owner, "models/large", share_with=["bob"])
        call = reader.models.DownloadModel(DownloadModelRequest(name="models/large"), timeout=120)
        received = len(next(call).chunk.data)
        update(owner, "models/large", unshare=["bob"])

        def rest() -> None:
            nonlocal received
            for part in call:
                received += len(part.chunk.data)

        assert refused(rest).reason == "UNKNOWN_MODEL"
        assert received < LARGE


def test_a_store_full_of_pinned_models_refuses_work(checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(checkpoints, data) as server:
        model = server.api.adapt(spec(), images()).model
        assert update(server.api, model.name, pinned=True).pinned
        assert server.stop() == 0
    room = f"--max-store-bytes={2 * model.size_bytes - 1}"
    with serving(checkpoints, data, room) as server:
        create = server.api.adaptations.CreateAdaptation
        answer = refused(create, parts(spec(seed=1), images()))
        assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_PINNED")
        assert "unpin or delete some" in answer.message
        assert server.api.download(model.name)
        update(server.api, model.name, pinned=False)
        server.api.serves()
