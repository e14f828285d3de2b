"""Work that is answered from the store, if the caller allows it, on a real server."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.adaptation_service_pb2 import DeleteAdaptationRequest
from metanas_protos.v1.checkpoint_service_pb2 import GetCheckpointRequest
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import LONG, SUCCEEDED, Api, image, images, parts, refused, spec
from tests.server.processes import ServerProcess, serving
from tests.server.test_deadlines import within


class Shop(NamedTuple):
    """A server with two callers, who may have two jobs at once."""

    server: ServerProcess
    one: Api
    two: Api
    data: Path


@pytest.fixture(scope="module")
def shop(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("reuse")
    path = folder / "tokens"
    secrets = [tokens.create(path, name, Role.USE) for name in ("one", "two")]
    flags = ("--token-file", str(path), "--max-jobs-per-caller=2")
    with serving(checkpoints, folder / "data", *flags) as server:
        one, two = map(server.api_of, secrets)
        yield Shop(server, one, two, folder / "data")


def create(api: Api, examples: Any = None, **fields: Any) -> tuple[str, bool]:
    """Create an adaptation that may be reused; returns its name, and True if it was."""
    request = parts(spec(reuse=True, **fields), images() if examples is None else examples)
    answer = api.adaptations.CreateAdaptation(request, timeout=60)
    return answer.adaptation.name, answer.reused


def test_the_same_work_is_done_once(shop: Shop) -> None:
    first = shop.one.adapt(spec(seed=1), images())  # which does not allow it
    name = first.adaptation.name
    assert create(shop.one, seed=1) == (name, True)
    assert create(shop.one, seed=1, request_id="r", priority=3, timeout=within(5)) == (name, True)
    assert shop.one.download(shop.one.get(name).model)
    again = shop.one.create(spec(seed=1), images()).name  # which does not allow it either
    assert again != name
    shop.one.end_of(again)


DIFFERENT: list[dict[str, Any]] = [
    {"seed": 3},
    {"options": AdaptationOptions(steps=1)},
    {"checkpoint": "checkpoints/colour"},
    {"classes": [b"b", b"a"]},
    {"examples": [*images(), image("a", 99)]},
    {"examples": images(("a", "c"))},
    {"examples": images()[::-1]},
]


@pytest.mark.parametrize("fields", DIFFERENT, ids=lambda fields: next(iter(fields)))
def test_other_work_is_done(shop: Shop, fields: dict[str, Any]) -> None:
    first, _ = create(shop.one, seed=2)
    shop.one.end_of(first)
    assert create(shop.one, seed=2) == (first, True)
    name, reused = create(shop.one, **{"seed": 2, **fields})
    assert (name != first, reused) == (True, False)
    assert shop.one.end_of(name).state == SUCCEEDED


def test_the_work_of_another_caller_is_not_reused(shop: Shop) -> None:
    first, _ = create(shop.one, seed=4)
    shop.one.end_of(first)
    name, reused = create(shop.two, seed=4)
    assert (name != first, reused) == (True, False)
    shop.two.end_of(name)


def test_an_adaptation_that_has_not_ended(shop: Shop) -> None:
    """It is reused until it is cancelled; it neither counts as work nor needs room for it."""
    first, reused = create(shop.one, options=LONG, timeout=within(100), deadline=within(200))
    assert not reused
    limits: dict[str, Any] = {"options": LONG, "timeout": within(90), "deadline": within(150)}
    assert create(shop.one, **limits) == (first, True)
    longer, reused = create(shop.one, **{**limits, "timeout": within(101)})
    assert (longer != first, reused) == (True, False)
    assert create(shop.one, **limits)[1]
    other = parts(spec(options=LONG, seed=5, reuse=True), images())
    assert refused(shop.one.adaptations.CreateAdaptation, other).reason == "CALLER_QUOTA"
    shop.one.cancel(longer)
    shop.one.end_of(longer)
    shop.one.cancel(first)  # it may not have ended yet
    name, reused = create(shop.one, **limits)
    assert (name not in (first, longer), reused) == (True, False)
    shop.one.cancel(name)
    shop.one.end_of(name)


def test_a_request_id_is_about_its_own_adaptation(shop: Shop) -> None:
    first, _ = create(shop.one, seed=6, request_id="mine")
    shop.one.end_of(first)
    assert create(shop.one, seed=6, request_id="mine") == (first, False)
    other = parts(spec(seed=7, request_id="mine", reuse=True), images())
    assert refused(shop.one.adaptations.CreateAdaptation, other).reason == "REQUEST_ID_REUSED"
    without = parts(spec(seed=6, request_id="mine"), images())
    assert refused(shop.one.adaptations.CreateAdaptation, without).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("loss", ["model", "adaptation", "file"])
def test_a_model_that_is_gone_is_made_again(shop: Shop, loss: str) -> None:
    made = shop.one.adapt(spec(seed=8), images())
    name, model = made.adaptation.name, made.model
    assert create(shop.one, seed=8) == (name, True)
    if loss == "model":
        shop.one.models.DeleteModel(DeleteModelRequest(name=model.name))
    elif loss == "adaptation":
        shop.one.adaptations.DeleteAdaptation(DeleteAdaptationRequest(name=name))
    else:
        [file] = [path for path in shop.data.rglob(f"*{model.sha256}*") if path.is_file()]
        file.write_bytes(b"damaged")
    again, reused = create(shop.one, seed=8)
    assert (again != name, reused) == (True, False)
    assert shop.one.end_of(again).state == SUCCEEDED
    assert create(shop.one, seed=8) == (again, True)
    shop.one.models.DeleteModel(DeleteModelRequest(name=shop.one.get(again).model))


def digest(server: ServerProcess) -> str:
    request = GetCheckpointRequest(name="checkpoints/grey")
    return str(server.api.checkpoints.GetCheckpoint(request).checkpoint.digest)


def test_another_checkpoint_of_the_same_name_is_other_work(tmp_path: Path) -> None:
    """After a restart and a reload; the model of the first checkpoint is found again with it."""
    root, options = tmp_path / "checkpoints", AdaptConfig(steps=2, tuning_steps=1, patience=0)
    make_checkpoint(root / "grey", channels=1, options=options)
    shutil.copytree(root, tmp_path / "first")
    with serving(root, tmp_path / "data") as server:
        first = server.api.adapt(spec(), images()).adaptation.name
        before = digest(server)
        make_checkpoint(root / "grey", channels=1, options=options, seed=1)
        server.process.send_signal(signal.SIGHUP)
        while digest(server) == before:
            pass
        name, reused = create(server.api)
        assert (name != first, reused) == (True, False)
        server.api.end_of(name)
        assert create(server.api) == (name, True)
        assert server.stop() == 0
    with serving(tmp_path / "first", tmp_path / "data") as server:
        assert create(server.api) == (first, True)
