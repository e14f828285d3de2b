"""Callers do not see each other: ids of others are answered as if they did not exist."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_status import rpc_status  # type: ignore[import-untyped]

from metanas_protos.inference.inference_service_pb2 import (
    ModelMetadataRequest,
    ModelReadyRequest,
)
from metanas_protos.v1 import adaptation_service_pb2, model_service_pb2
from metanas_protos.v1.adaptation_service_pb2 import ListAdaptationsRequest
from metanas_protos.v1.model_service_pb2 import ListModelsRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import (
    CANCELLED,
    LONG,
    Api,
    image,
    images,
    parts,
    refused,
    spec,
    with_token,
)
from tests.server.processes import ServerProcess, serving
from tests.server.queries import Queries, pixels, raw_query

NAMES = {"one": Role.USE, "two": Role.USE, "chief": Role.ADMIN}
METHODS = [
    method
    for module in (adaptation_service_pb2, model_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if "name" in method.input_type.fields_by_name
]


class Guarded(NamedTuple):
    """A server with tokens; adaptations of the caller `one`: ended, running."""

    server: ServerProcess
    secrets: dict[str, str]
    ended: str
    running: str

    def api(self, name: str) -> Api:
        """Return the stubs of a caller."""
        return self.server.api_of(self.secrets[name])


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    path = folder / "tokens"
    secrets = {name: tokens.create(path, name, role) for name, role in NAMES.items()}
    with serving(checkpoints, folder / "data", "--token-file", str(path)) as server:
        one = server.api_of(secrets["one"])
        ended = one.adapt(spec(), images()).adaptation.name
        running = one.create(spec(options=LONG), images()).name
        yield Guarded(server, secrets, ended, running)


def refusal(guarded: Guarded, method: Any, name: str) -> tuple[grpc.StatusCode, str]:
    """Call a method about a name, as `two`, and expect a refusal; returns its code and bytes."""
    channel = with_token(guarded.server.channel, guarded.secrets["two"])
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    request = method.input_type._concrete_class(name=name)
    with pytest.raises(grpc.RpcError) as caught:
        list(make(path, request_serializer=type(request).SerializeToString)(request))
    status = rpc_status.from_call(caught.value)
    assert status is not None
    text = str(status).replace(name, "NAME")
    return caught.value.code(), text


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_id_of_another_caller_is_answered_like_an_unknown_one(
    guarded: Guarded, method: Any
) -> None:
    kind = "models" if method.containing_service.name == "ModelService" else "adaptations"
    unknown = refusal(guarded, method, f"{kind}/0123456789abcdef")
    assert unknown[0] is grpc.StatusCode.NOT_FOUND
    for name in (guarded.ended, guarded.running):
        assert refusal(guarded, method, f"{kind}/{name.partition('/')[2]}") == unknown
    assert guarded.api("one").get(guarded.ended).model
    assert guarded.api("one").get(guarded.running).state != CANCELLED


def listed(api: Api) -> tuple[set[str], set[str]]:
    """Return the names of the adaptations and models that a caller sees."""
    adaptations = api.adaptations.ListAdaptations(ListAdaptationsRequest()).adaptations
    models = api.models.ListModels(ListModelsRequest()).models
    return {each.name for each in adaptations}, {each.name for each in models}


def test_lists_have_one_s_own(guarded: Guarded) -> None:
    mine = guarded.api("two").adapt(spec(seed=4), images())
    assert listed(guarded.api("two")) == ({mine.adaptation.name}, {mine.model.name})
    theirs, models = listed(guarded.api("one"))
    assert theirs == {guarded.ended, guarded.running}
    assert mine.model.name not in models
    everything, all_models = listed(guarded.api("chief"))
    assert theirs | {mine.adaptation.name} <= everything
    assert models | {mine.model.name} <= all_models


def test_an_admin_cancels_the_work_of_others(guarded: Guarded) -> None:
    name = guarded.api("two").create(spec(options=LONG, seed=9), images()).name
    guarded.api("chief").cancel(name)
    assert guarded.api("two").end_of(name).state == CANCELLED


def test_request_ids_belong_to_a_caller(guarded: Guarded) -> None:
    """The same id of two callers makes two adaptations, also of different requests."""
    first = guarded.api("one").create(spec(request_id="r"), images())
    assert guarded.api("one").create(spec(request_id="r"), images()).name == first.name
    second = guarded.api("two").create(spec(request_id="r"), [*images(), image("a", 7)])
    assert second.name != first.name


def test_a_model_outlives_its_adaptation_and_keeps_its_owner(guarded: Guarded) -> None:
    api = guarded.api("two")
    made = api.adapt(spec(seed=11), images())
    request = adaptation_service_pb2.DeleteAdaptationRequest(name=made.adaptation.name)
    api.adaptations.DeleteAdaptation(request)
    assert api.download(made.model.name)
    assert refused(guarded.api("one").model, made.model.name).reason == "UNKNOWN_MODEL"


def test_quotas_and_owners_survive_a_restart(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    one, two = (tokens.create(path, name, Role.USE) for name in ("one", "two"))
    flags = ("--token-file", str(path), "--max-jobs-per-caller=1")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        name = server.api_of(one).create(spec(options=LONG), images()).name
        server.kill()
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        assert server.api_of(one).get(name).name == name
        assert refused(server.api_of(two).get, name).reason == "UNKNOWN_ADAPTATION"
        create = server.api_of(one).adaptations.CreateAdaptation
        assert refused(create, parts(spec(), images())).reason == "CALLER_QUOTA"


def test_models_answer_queries_of_their_owner_only(guarded: Guarded) -> None:
    name = guarded.ended.removeprefix("adaptations/")
    stubs = {
        caller: Queries(with_token(guarded.server.channel, secret))
        for caller, secret in guarded.secrets.items()
    }
    for caller in ("one", "chief"):
        assert stubs[caller].infer(raw_query(name, pixels())).outputs
    two = stubs["two"]
    assert not two.stub.ModelReady(ModelReadyRequest(name=name)).ready
    for answer in (
        two.refusal(raw_query(name, pixels())),
        refused(two.stub.ModelMetadata, ModelMetadataRequest(name=name)),
    ):
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
