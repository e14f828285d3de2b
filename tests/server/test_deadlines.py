"""Deadlines of adaptations, and their number a minute."""

from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from metanas_server.config import ServerConfig
from metanas_server.jobs.admission import beside, ends_before
from metanas_server.jobs.dispatcher import Pace, fits, in_time
from metanas_server.jobs.job import Job
from metanas_server.records.records import Load
from tests.server.calls import FAILED, LONG, SUCCEEDED, Api, images, refused, spec
from tests.server.databases import locked
from tests.server.processes import serving
from tests.server.test_parts import RECORD


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-stack=1",)


def within(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def fails_at_its_deadline(api: Api, name: str) -> None:
    ended = api.end_of(name)
    assert (ended.state, ended.failure.reason) == (FAILED, "DEADLINE_PASSED")
    assert ended.failure.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_an_adaptation_that_makes_its_deadline(api: Api) -> None:
    assert api.adapt(spec(deadline=within(300)), images()).adaptation.state == SUCCEEDED


def test_an_adaptation_that_runs_at_its_deadline(api: Api) -> None:
    fails_at_its_deadline(api, api.create(spec(options=LONG, deadline=within(4)), images()).name)
    api.serves()


def test_an_adaptation_that_waits_at_its_deadline(checkpoints: Path, tmp_path: Path) -> None:
    """A server that has ended no adaptation yet does not know that the deadline is too short."""
    with serving(checkpoints, tmp_path / "data", "--max-stack=1") as server:
        api = server.api
        api.until_running(api.create(spec(options=LONG), images()).name)
        waiting = api.create(spec(deadline=within(1)), images()).name
        fails_at_its_deadline(api, waiting)
        assert not api.get(waiting).attempts


def test_a_deadline_that_passes_while_the_database_is_locked(
    checkpoints: Path, tmp_path: Path
) -> None:
    with serving(checkpoints, tmp_path / "data", "--max-stack=1") as server:
        api = server.api
        running = api.create(spec(options=LONG), images()).name
        api.until_running(running)
        health = server.health("metanas.v1.AdaptationService")
        assert next(health) == HealthCheckResponse.SERVING
        waiting = api.create(spec(deadline=within(2)), images()).name
        with locked(tmp_path / "data"):
            assert next(health) == HealthCheckResponse.NOT_SERVING  # its end was not written
        fails_at_its_deadline(api, waiting)
        api.cancel(running)


def test_a_deadline_too_short_is_refused_at_once(api: Api) -> None:
    api.serves()  # the server knows its pace then
    name = api.create(spec(options=LONG), images()).name
    api.until_running(name)
    answer = refused(api.create, spec(deadline=within(0.001)), images())
    assert (answer.code, answer.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "DEADLINE_TOO_SHORT",
    )
    assert answer.retry_seconds
    api.cancel(name)
    api.end_of(name)


def test_slow_adaptations_before_refuse_no_deadline_for_ever(
    checkpoints: Path, tmp_path: Path
) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        slow = server.api.create(spec(options=LONG, deadline=within(2)), images()).name
        fails_at_its_deadline(server.api, slow)
        # The estimate is 5 s now.
        server.api.end_of(server.api.create(spec(deadline=within(2.5)), images()).name)


def test_the_pace_of_jobs_that_end_together_is_that_of_jobs_one_after_the_other() -> None:
    pace = Pace()
    assert pace.seconds == 0
    for number in range(160):
        start = number // 16 * 3.2
        pace.count(start, start + 3.2)
        assert number % 16 < 15 or pace.seconds == pytest.approx(0.2)
        assert number < 32 or pace.seconds == pytest.approx(0.2)
    pace.count(1000.0, 1003.0)  # idle time does not count
    assert pace.seconds < 0.4


@pytest.mark.parametrize(
    ("running", "ahead", "slots", "ends"),
    [
        (0, 0, 1, 1),
        (1, 0, 1, 2),  # one after the other
        (1, 5, 1, 7),
        (0, 0, 16, 2),  # alone, for which a stack is faster for each
        (3, 1, 16, 10),
        (7, 0, 16, 16),  # one of a full stack
        (15, 0, 16, 16),
        (16, 0, 16, 32),  # one of the next full stack
        (16, 15, 16, 32),
        (16, 16, 16, 48),
        (5, 11, 16, 21),  # others keep places free until their deadlines
        (32, 64, 32, 128),
    ],
)
def test_the_longest_time_until_the_end(running: int, ahead: int, slots: int, ends: int) -> None:
    load = Load(waiting=ahead, unfinished=0, fronts=1, running=running, ahead=ahead)
    assert ends_before(load, slots) == ends


@pytest.mark.parametrize("slots", [1, 4, 16, 32])
def test_a_deadline_is_long_enough_for_all_who_end_together(slots: int) -> None:
    """Full stacks of `slots` adaptations run for `slots` times the pace, one after the other."""
    for ahead in range(3 * slots):
        stacks = 1 + ahead // slots
        now = Load(waiting=ahead, unfinished=0, fronts=1, running=slots, ahead=ahead)
        assert ends_before(now, slots) == slots + stacks * slots
    for running in range(slots):
        now = Load(waiting=0, unfinished=0, fronts=1, running=running)
        assert running < ends_before(now, slots) <= slots


@pytest.mark.parametrize(
    ("places", "waiting", "unfinished", "ahead"),
    [
        ({}, 6, 2, 4),
        ({"ann": 1}, 7, 3, 5),
        ({"bob": 9}, 15, 2, 7),  # three turns of Bob's come before Ann's third
        ({"ann": 2, "bob": 1, "eve": 9}, 18, 4, 12),
    ],
)
def test_uploads_count_as_waiting_adaptations(
    places: dict[str, int], waiting: int, unfinished: int, ahead: int
) -> None:
    load = Load(waiting=6, unfinished=2, fronts=3, pause=1.5, running=8, ahead=4)
    counted = replace(load, waiting=waiting, unfinished=unfinished, ahead=ahead)
    assert beside(load, places, "ann") == counted


@pytest.mark.parametrize(
    ("seconds", "number", "pace", "most"),
    [
        (2.0, 1, 0.2, 5),
        (2.0, 5, 0.2, 5),
        (2.0, 6, 0.2, None),  # they are too many already
        (40.0, 1, 0.2, 100),
        (2.0, 1, 0.0, None),  # no adaptation has ended yet
        (0.1, 1, 0.2, None),
        (-1.0, 1, 0.2, None),
    ],
)
def test_the_most_that_end_in_time(
    seconds: float, number: int, pace: float, most: int | None
) -> None:
    assert in_time(seconds, number, pace) == most


def job(memory: int = 0, *, limit: int | None = None, most: int | None = None) -> Job:
    made = Job(1, replace(RECORD, memory=memory), "caller")
    made.limit, made.most = limit, most
    return made


@pytest.mark.parametrize(
    ("new", "others", "fitting"),
    [
        (job(), [], True),
        (job(), [job(), job(), job()], True),
        (job(), [job()] * 4, False),  # the largest stack
        (job(), [job(limit=3), job()], True),
        (job(), [job(limit=2), job()], False),  # it would miss its deadline
        (job(limit=2), [job(), job()], True),  # its own deadline keeps later ones away
        (job(most=2), [job(most=2)], True),
        (job(most=2), [job(most=4), job(most=4)], False),  # suspects in halves
        (job(), [job(most=4)], False),
        (job(3), [], True),  # alone it may have more
        (job(1), [job(1)], True),
        (job(1), [job(2)], False),
    ],
)
def test_jobs_that_may_run_together(new: Job, others: list[Job], fitting: bool) -> None:
    config = ServerConfig(checkpoints=Path(), data=Path(), max_stack=4, max_image_memory=2)
    assert fits(new, others, config) == fitting


@pytest.mark.parametrize("field", ["deadline", "timeout"])
@pytest.mark.parametrize("seconds", [0, -1, 1_000_001])
def test_durations_out_of_bounds(api: Api, field: str, seconds: float) -> None:
    answer = refused(api.create, spec(**{field: within(seconds)}), images())
    assert answer.violations == [(f"spec.{field}", f"{field.upper()}_INVALID")]


def test_a_deadline_survives_a_restart(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        name = server.api.create(spec(options=LONG, deadline=within(10)), images()).name
        server.kill()
    with serving(checkpoints, tmp_path / "data") as server:
        fails_at_its_deadline(server.api, name)


def test_adaptations_a_minute(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    one, two = (tokens.create(path, name, Role.USE) for name in ("one", "two"))
    flags = ("--token-file", str(path), "--max-adaptations-per-minute=2")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        first = server.api_of(one).create(spec(request_id="r"), images()).name
        server.api_of(one).create(spec(), images())
        answer = refused(server.api_of(one).create, spec(), images())
        assert answer.reason == "CALLER_RATE"
        assert answer.retry_seconds
        assert answer.retry_seconds <= 60
        assert server.api_of(one).create(spec(request_id="r"), images()).name == first
        server.api_of(two).create(spec(), images())
