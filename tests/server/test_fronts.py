"""Two servers on one PostgreSQL and one bucket: any of them answers for any job."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from metanas_protos.v1.adaptation_pb2 import Adaptation, AdaptationOptions
from metanas_protos.v1.adaptation_service_pb2 import (
    ListAdaptationsRequest,
    WatchAdaptationRequest,
)
from metanas_protos.v1.model_service_pb2 import ListModelsRequest
from tests.server.calls import (
    CANCELLED,
    LONG,
    RUNNING,
    SUCCEEDED,
    Api,
    images,
    parts,
    refused,
    spec,
)
from tests.server.databases import Postgres
from tests.server.preload import HostClock
from tests.server.processes import ENVIRONMENT, ServerProcess, run, serving
from tests.server.s3 import Bucket

PATIENCE = 240.0
LASTING = AdaptationOptions(steps=30)
HOUR, LEASE = 3600, 3  # seconds
OUTAGE = 4.0
"""Seconds without a database, longer than a lease. The test has been run with 60, too."""


class Fronts:
    """Servers that share the records and the artefacts; a killed one can be replaced."""

    def __init__(self, checkpoints: Path, folder: Path, postgres: Postgres, bucket: Bucket) -> None:
        self.postgres = postgres
        self.clock = HostClock(folder)
        self._environment = {**ENVIRONMENT, **bucket.environment, **self.clock.environment}
        self._checkpoints = checkpoints
        self._folder = folder
        self._stack = ExitStack()
        self._count = 0
        self.records = f"--records={postgres.create()}"
        self._flags = (
            self.records,
            "--artefacts=s3://bucket/fronts",
            f"--lease-seconds={LEASE}",
            "--max-stack=1",
            "--max-jobs-per-caller=6",
            "--log-format=json",
        )

    def start(self) -> ServerProcess:
        self._count += 1
        data = self._folder / f"data{self._count}"
        start = serving(self._checkpoints, data, *self._flags, environment=self._environment)
        return self._stack.enter_context(start)

    def lines(self, number: int, part: str) -> list[dict[str, Any]]:
        """Return the lines with a text of the log of one of the servers."""
        path = (self._folder / f"data{number}").with_suffix(".log")
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(each) for each in lines if part in each]

    def logs(self) -> str:
        """Return the ends of the servers' logs."""
        return "\n".join(each.read_text()[-4000:] for each in self._folder.glob("*.log"))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def fronts(
    checkpoints: Path,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    bucket: Bucket,
) -> Iterator[Fronts]:
    fronts = Fronts(checkpoints, tmp_path_factory.mktemp("fronts"), postgres, bucket)
    yield fronts
    fronts.close()
    postgres.clock.set(0)


@pytest.fixture(scope="module")
def pair(fronts: Fronts) -> tuple[ServerProcess, ServerProcess]:
    return fronts.start(), fronts.start()


def until(api: Api, name: str, state: int) -> Adaptation:
    """Wait for a state of an adaptation."""
    end = time.monotonic() + PATIENCE
    while (shown := api.get(name)).state != state:
        assert time.monotonic() < end, shown
        time.sleep(0.2)
    return shown


def check_model(api: Api, name: str) -> None:
    content = b"".join(chunk.data for chunk in api.download(name))
    assert hashlib.sha256(content).hexdigest() == api.model(name).sha256


def test_any_front_answers_for_any_job(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one, two = (each.api for each in pair)
    running = one.create(spec(options=LONG, request_id="r"), images()).name
    one.until_running(running)
    two.until_running(running)  # a watch at the other front shows its steps
    assert two.get(running).progress.stage == "adapt"
    [listed] = two.adaptations.ListAdaptations(ListAdaptationsRequest()).adaptations
    assert (listed.name, listed.progress.stage) == (running, "adapt")
    assert two.create(spec(options=LONG, request_id="r"), images()).name == running
    two.cancel(running)
    assert until(two, running, CANCELLED).failure.reason == "CANCELLED"
    assert one.end_of(running).state == CANCELLED
    done = two.end_of(one.create(spec(), images()).name)
    assert done.state == SUCCEEDED
    check_model(two, done.model)


def test_a_front_without_the_artefacts_is_refused(
    pair: tuple[ServerProcess, ServerProcess], fronts: Fronts, checkpoints: Path, tmp_path: Path
) -> None:
    one, _ = pair
    assert one.api.end_of(one.api.create(spec(), images()).name).state == SUCCEEDED
    done = run(checkpoints, tmp_path / "data", fronts.records)
    assert done.returncode == 2
    assert "give all servers on it the same --artefacts" in done.stderr


def test_an_idle_front_helps(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one = pair[0].api
    busy = one.create(spec(options=LONG), images()).name
    one.until_running(busy)
    waiting = one.create(spec(seed=1), images()).name
    ended = one.end_of(waiting)  # the watch follows it to the other front
    assert ended.state == SUCCEEDED
    check_model(one, ended.model)
    one.cancel(busy)


def test_quotas_count_all_fronts(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one, two = (each.api for each in pair)
    names = [
        (one, two)[number % 2].create(spec(options=LONG, seed=number), images()).name
        for number in range(6)
    ]
    answer = refused(two.create, spec(), images())
    assert (answer.reason, answer.retry_seconds is None) == ("CALLER_QUOTA", False)
    for name in names:
        two.cancel(name)  # of jobs that run and that wait, here and there
    for name in names:
        until(one, name, CANCELLED)


def test_a_front_whose_bucket_hangs_keeps_its_lease(
    fronts: Fronts, pair: tuple[ServerProcess, ServerProcess], bucket: Bucket
) -> None:
    one, two = (each.api for each in pair)
    busy = one.create(spec(options=LONG), images()).name
    one.until_running(busy)
    before = beats(fronts)
    with ThreadPoolExecutor(1) as thread:
        with bucket.hanging():
            late = thread.submit(one.create, spec(seed=1), images())
            until_beats(fronts, max(before.values()) + 4 * LEASE * 1000)
            assert not late.done()
        assert beats(fronts).keys() == before.keys()
        assert until(two, late.result().name, SUCCEEDED).attempts == 1
    assert (one.get(busy).state, one.get(busy).attempts) == (RUNNING, 1)
    one.cancel(busy)


def models(api: Api) -> list[str]:
    answer = api.models.ListModels(ListModelsRequest(page_size=500))
    return [model.name for model in answer.models]


def test_the_loss_of_the_database_loses_and_doubles_nothing(
    fronts: Fronts, pair: tuple[ServerProcess, ServerProcess]
) -> None:
    """Both fronts run an adaptation at the loss, and have others that wait."""
    one, two = (each.api for each in pair)
    before = models(one)
    names = [
        each.create(spec(options=LASTING, seed=20 + 2 * number + at), images()).name
        for number in range(2)
        for at, each in enumerate((one, two))
    ]
    for name in names[:2]:
        one.until_running(name)
    fronts.postgres.kill()
    end = time.monotonic() + OUTAGE
    while time.monotonic() < end:
        for api in (one, two):
            assert refused(api.create, spec(), images()).reason == "STORE_FAILED"
        time.sleep(0.5)
    fronts.postgres.start()
    ended = [until(one, name, SUCCEEDED) for name in names]
    assert [each.attempts for each in ended] == [1] * len(names)
    made = {each.model for each in ended}
    assert len(made) == len(names)
    assert set(models(two)) - set(before) == made
    for name in made:
        check_model(two, name)


def beats(fronts: Fronts) -> dict[str, int]:
    """Return the last beat of each front, in milliseconds by the clock of the database."""
    name = fronts.records.rpartition("/")[2]
    return dict(fronts.postgres.execute("SELECT id, seen FROM fronts", name))


def until_beats(fronts: Fronts, time_: int) -> None:
    """Wait until each front has beaten after a time by the clock of the database."""
    end = time.monotonic() + PATIENCE
    while min((shown := beats(fronts)).values()) < time_:
        assert time.monotonic() < end, (shown, time_, fronts.logs())
        time.sleep(0.2)


def test_clocks_that_are_an_hour_fast(
    fronts: Fronts, pair: tuple[ServerProcess, ServerProcess]
) -> None:
    """No front counts as dead, and no deadline comes early."""
    one, two = (each.api for each in pair)
    busy = [
        each.create(spec(options=LONG, seed=n), images()).name for n, each in enumerate((one, two))
    ]
    for name in busy:
        two.until_running(name)
    deadline = Duration(seconds=600)
    waiting = one.create(spec(deadline=deadline), images()).name
    before = max(beats(fronts).values())
    fronts.postgres.clock.set(HOUR)
    fronts.clock.set(HOUR)
    # Both have renewed their leases for twice the time of a lease after the jump.
    until_beats(fronts, before + HOUR * 1000 + 2 * LEASE * 1000)
    for name in busy:
        assert (one.get(name).state, one.get(name).attempts) == (RUNNING, 1)
        one.cancel(name)
    ended = until(two, waiting, SUCCEEDED)
    assert ended.attempts == 1
    late = one.create(spec(seed=4, deadline=deadline), images()).name
    assert until(two, late, SUCCEEDED).attempts == 1


def test_the_loss_of_the_database_and_of_a_front(
    fronts: Fronts, pair: tuple[ServerProcess, ServerProcess]
) -> None:
    """Meanwhile all clocks go back by two hours: a dead front stays dead."""
    one, two = pair
    options = [AdaptationOptions(steps=steps) for steps in (100, 2, 2, 2)]
    traces = [(("traceparent", f"00-{seed:032x}-{8 * 'ab'}-01"),) for seed in range(1, 5)]
    names = [
        one.api.adaptations.CreateAdaptation(
            parts(spec(options=each, seed=seed), images()), metadata=trace
        ).adaptation.name
        for seed, (each, trace) in enumerate(zip(options, traces, strict=True))
    ]
    one.api.until_running(names[0])
    request = WatchAdaptationRequest(name=names[0])
    watch = iter(two.api.adaptations.WatchAdaptation(request, timeout=PATIENCE))
    next(watch)
    fronts.postgres.kill()
    assert refused(two.api.create, spec(), images()).reason == "STORE_FAILED"
    one.kill()
    fronts.postgres.clock.set(-HOUR)
    fronts.clock.set(-HOUR)
    fronts.postgres.start()
    *_, last = watch  # it outlives the database and the front that ran the job
    assert (last.adaptation.state, last.adaptation.attempts) == (SUCCEEDED, 2)
    ended = [until(two.api, name, SUCCEEDED) for name in names]
    for number, name in enumerate(names, 1):
        found = fronts.lines(2, f"{name.partition('/')[2]}: succeeded")
        assert [each["trace_id"] for each in found] == [f"{number:032x}"]
    for each in ended:
        check_model(two.api, each.model)
    running = two.api.create(spec(options=LONG, seed=8), images()).name
    two.api.until_running(running)
    third = fronts.start()
    assert third.api.get(names[0]) == ended[0]
    third.api.until_running(running)  # it shows steps of a time when there was one front
    two.api.cancel(running)
    done = third.api.end_of(third.api.create(spec(seed=9), images()).name)
    assert two.api.get(done.name) == done
    moving = third.api.create(spec(options=LONG, seed=10), images()).name
    third.api.until_running(moving)
    watch = two.api.watch(moving)
    next(watch)
    third.stop()
    # The front that takes it is alone, and shows its steps to those who have watched it before.
    next(event for event in watch if event.progress.attempt == 2)
    assert two.api.cancel(moving).state != SUCCEEDED
