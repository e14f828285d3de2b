"""Two servers on one PostgreSQL: shares, reuse and rates of callers hold at both."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from metanas_protos.v1.model_service_pb2 import UpdateModelRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import LONG, Api, images, parts, refused, spec
from tests.server.databases import Postgres
from tests.server.processes import ServerProcess, serving

MOST = 4
"""Most adaptations of a caller in a minute."""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("callers") / "tokens"
    secrets = {name: tokens.create(path, name, Role.USE) for name in ("ann", "bob", "eve")}
    return {"file": str(path), **secrets}


@pytest.fixture(scope="module")
def pair(
    checkpoints: Path,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    secrets: dict[str, str],
) -> Iterator[list[ServerProcess]]:
    folder, records = tmp_path_factory.mktemp("fronts"), postgres.create()
    flags = [f"--records={records}", f"--artefacts={folder / 'artefacts'}"]
    flags += ["--token-file", secrets["file"], f"--max-adaptations-per-minute={MOST}"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(checkpoints, folder / f"data{number}", *flags))
            for number in range(2)
        ]


def update(api: Api, name: str, **fields: Any) -> None:
    api.models.UpdateModel(UpdateModelRequest(name=name, **fields), timeout=60)


def test_the_end_of_sharing_holds_at_both_servers(
    pair: list[ServerProcess], secrets: dict[str, str]
) -> None:
    (ann, _), (bob, bob2) = (
        [each.api_of(secrets[name]) for each in pair] for name in ("ann", "bob")
    )
    model = ann.adapt(spec(), images()).model.name
    assert refused(bob2.model, model).reason == "UNKNOWN_MODEL"
    update(ann, model, share_with=["bob"])
    for api in (bob, bob2):
        assert api.download(model)
    update(ann, model, unshare=["bob"])
    for api in (bob, bob2):
        assert refused(api.download, model).reason == "UNKNOWN_MODEL"


def test_work_and_starts_are_counted_at_both_servers(
    pair: list[ServerProcess], secrets: dict[str, str]
) -> None:
    one, two = (each.api_of(secrets["eve"]) for each in pair)
    running = one.create(spec(options=LONG), images()).name
    one.until_running(running)
    request = parts(spec(options=LONG, reuse=True), images())
    answer = two.adaptations.CreateAdaptation(request, timeout=60)
    assert (answer.adaptation.name, answer.reused) == (running, True)
    made = one.adapt(spec(seed=1), images())
    request = parts(spec(seed=1, reuse=True), images())
    answer = two.adaptations.CreateAdaptation(request, timeout=60)
    assert (answer.adaptation.name, answer.reused) == (made.adaptation.name, True)
    assert two.download(answer.adaptation.model)
    for seed in range(2, MOST):
        two.create(spec(seed=seed), images())
    for api in (one, two):
        refusal = refused(api.create, spec(seed=9), images())
        assert refusal.reason == "CALLER_RATE"
        assert refusal.retry_seconds
    two.cancel(running)
