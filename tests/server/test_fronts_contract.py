"""The contract of fronts that share the records, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text, update

from metanas_server.errors import (
    AlreadyAccepted,
    LeaseLost,
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from metanas_server.records.address import open_database, read_address
from metanas_server.records.database import Database
from metanas_server.records.records import Load, Records
from metanas_server.records.tables import STARTS
from metanas_server.resources import ProgressRecord, State
from tests.server.test_parts import MODEL, RECORD

RUNNING = replace(RECORD, state=State.RUNNING, attempts=1)
ENDED = replace(RECORD, state=State.SUCCEEDED, support="", end_time=7)
STEPS = tuple(
    ProgressRecord(sequence=i, attempt=1, time=i, stage="adapt", step=i, steps=9)
    for i in range(1, 4)
)
MOST = 3


@pytest.fixture
def pair(address: str) -> Iterator[tuple[Records, Records]]:
    """The records as two fronts see them; both have a lease."""
    with (
        closing(Records(open_database(read_address(address, Path())), "a")) as one,
        closing(Records(open_database(read_address(address, Path())), "b")) as two,
    ):
        one.fronts.beat()
        two.fronts.beat()
        yield one, two


def test_one_front_has_an_adaptation(pair: tuple[Records, Records]) -> None:
    one, two = pair
    one.insert(RECORD, "ann")
    assert (one.fronts.mine(), two.fronts.mine()) == ({"one": False}, {})
    with pytest.raises(LeaseLost):
        two.update(RUNNING)
    assert one.adaptation("one", None) == RECORD
    [(id_, front, record)] = two.fronts.waiting_elsewhere(9)
    assert (id_, front, record) == ("one", "a", RECORD)
    [taken] = two.fronts.claim([(id_, front)])
    assert (taken.record, taken.caller, taken.cancel) == (RECORD, "ann", False)
    assert one.fronts.taken_away(["one", "two"]) == {"one"}
    with pytest.raises(LeaseLost):
        one.update(ENDED, STEPS, MODEL)
    with pytest.raises(NotFound):
        one.models.get("one", None)
    assert one.fronts.claim([(id_, front)]) == []  # it has moved since
    two.update(RUNNING)
    assert one.fronts.take_waiting("one") == []  # it has begun
    for _ in range(2):  # the answer to the first commit may have been lost
        two.update(ENDED, STEPS, MODEL)
    assert one.models.get("one", None) == MODEL
    assert two.fronts.mine() == {}


def test_a_dead_front_loses_its_adaptations(pair: tuple[Records, Records]) -> None:
    one, two = pair
    for number, state in enumerate((State.RUNNING, State.QUEUED, State.SUCCEEDED)):
        record = replace(RECORD, id=f"{number}")
        one.insert(record, "ann")
        one.update(replace(record, state=state))
    beats = two.fronts.beats()
    assert two.fronts.orphans() == []
    assert two.fronts.bury({id_: beat - 1 for id_, beat in beats.items()}) == 0  # beaten again
    assert two.fronts.bury(beats) == 2
    two.fronts.beat()
    assert [each.record.id for each in two.fronts.orphans()] == ["0", "1"]
    assert two.fronts.orphans() == []
    one.fronts.beat()  # it was only late
    assert one.fronts.count() == 2
    assert one.fronts.orphans() == []
    assert one.fronts.taken_away(["0", "1", "2"]) == {"0", "1"}
    with pytest.raises(LeaseLost):
        one.update(replace(RUNNING, id="0"))


def test_a_front_that_leaves_gives_its_adaptations_up(pair: tuple[Records, Records]) -> None:
    one, two = pair
    one.insert(RECORD)
    one.fronts.leave()
    assert [each.record for each in two.fronts.orphans()] == [RECORD]


@pytest.mark.parametrize("jump", [-3_600_000, 3_600_000])
def test_a_jump_of_the_clock_locks_no_caller_out(
    pair: tuple[Records, Records], address: str, jump: int
) -> None:
    one, two = pair
    one.insert(RECORD, "ann", per_minute=1)
    assert one.load("ann", per_minute=1).pause > 0
    with closing(open_database(read_address(address, Path()))) as database:
        with database.change() as connection:
            connection.execute(text(f"UPDATE starts SET time = time + {jump}"))
        assert two.load("ann", per_minute=1).pause <= 0


def test_each_caller_has_its_turn_at_another_front(pair: tuple[Records, Records]) -> None:
    one, two = pair
    for number, caller in enumerate("aaab"):
        one.insert(replace(RECORD, id=f"{number}"), caller)
    assert [id_ for id_, _, _ in two.fronts.waiting_elsewhere(3)] == ["0", "3", "1"]
    assert one.fronts.waiting_elsewhere(3) == []


def test_a_cancellation_at_another_front(pair: tuple[Records, Records]) -> None:
    one, two = pair
    one.insert(RECORD)
    one.update(RUNNING)
    two.fronts.ask_to_cancel("one")
    assert one.fronts.mine() == {"one": True}
    one.fronts.leave()
    assert [each.cancel for each in two.fronts.orphans()] == [True]


def test_progress_at_another_front(pair: tuple[Records, Records]) -> None:
    one, two = pair
    one.insert(RECORD)
    one.update(RUNNING)
    assert two.fronts.news("one", 0) == (RUNNING, [])
    for _ in range(2):
        one.fronts.write_progress({"one": STEPS[:2], "gone": STEPS})
    assert two.fronts.news("one", 0) == (RUNNING, list(STEPS[:2]))
    assert two.fronts.news("one", 1) == (RUNNING, [STEPS[1]])
    assert two.last_progress("one") == STEPS[1]
    [(_, _, last)] = two.adaptations(None, 9, None, None)
    assert last == STEPS[1]
    one.update(ENDED, STEPS, MODEL)
    one.fronts.write_progress({"one": STEPS[:2]})  # too late
    assert two.fronts.news("one", 1) == (ENDED, list(STEPS[1:]))
    assert two.last_progress("one") == STEPS[-1]
    one.delete_adaptation("one")
    with pytest.raises(NotFound):
        two.fronts.news("one", 0)


def test_a_file_that_another_front_writes_stays(
    pair: tuple[Records, Records], address: str
) -> None:
    if address.startswith("sqlite"):
        pytest.skip("one server alone uses an SQLite file")
    one, two = pair
    removed = list[str]()
    one.files.loosen("x")
    two.files.loosen("x")
    two.files.discard("x", removed.append)
    assert (removed, one.files.loose(), two.files.loose()) == ([], {"x"}, set())
    one.insert(replace(RECORD, support="x"))
    two.files.discard("x", removed.append)
    assert removed == []
    one.files.loosen("y")
    assert two.files.known() == {"x", "y"}
    one.fronts.leave()
    assert two.files.loose() == {"y"}
    two.files.discard("y", removed.append)
    assert (removed, two.files.loose()) == (["y"], set())


def test_a_front_that_was_buried_while_it_wrote_a_file(
    pair: tuple[Records, Records], address: str
) -> None:
    """Another front with the same support set may have deleted the file: it is written again."""
    if address.startswith("sqlite"):
        pytest.skip("one server alone uses an SQLite file")
    one, two = pair
    removed = list[str]()
    one.files.loosen("x")
    one.fronts.leave()
    two.files.discard("x", removed.append)
    assert removed == ["x"]
    one.fronts.beat()
    with pytest.raises(StoreUnavailable, match="another server has deleted the file"):
        one.insert(replace(RECORD, support="x"))
    with pytest.raises(NotFound):
        one.adaptation("one", None)
    one.files.loosen("x")
    one.insert(replace(RECORD, support="x"))
    two.files.discard("x", removed.append)
    assert removed == ["x"]


def admit(load: Load) -> None:
    if load.unfinished >= MOST:
        raise Overloaded("CALLER_QUOTA", "too many")


def test_limits_count_all_fronts(pair: tuple[Records, Records]) -> None:
    refused, start = list[str](), Barrier(2)

    def work(records: Records, name: str) -> None:
        start.wait(60)
        for number in range(MOST):
            try:
                records.insert(replace(RECORD, id=f"{name}{number}"), "ann", admit)
            except Overloaded:
                refused.append(name)

    threads = [
        Thread(target=work, args=(each, name)) for each, name in zip(pair, "ab", strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, _ = pair
    assert len(refused) == MOST
    assert one.load("ann") == Load(waiting=MOST, unfinished=MOST, fronts=2, ahead=MOST)
    assert one.load("bob") == Load(waiting=MOST, unfinished=0, fronts=2, ahead=1)


def test_a_long_queue_of_one_caller_is_not_ahead_of_others(pair: tuple[Records, Records]) -> None:
    one, _ = pair
    for caller, count in (("ann", 9), ("bob", 3), ("cid", 1)):
        for number in range(count):
            one.insert(replace(RECORD, id=f"{caller}{number}"), caller)
    ahead = {caller: one.load(caller).ahead for caller in ("ann", "bob", "cid", "dan")}
    assert ahead == {"ann": 13, "bob": 4 + 3 + 1, "cid": 2 + 2 + 1, "dan": 3}


def test_starts_in_a_minute_count_all_fronts(pair: tuple[Records, Records], address: str) -> None:
    one, two = pair

    def add(records: Records, id_: str, caller: str = "ann") -> None:
        records.insert(replace(RECORD, id=id_), caller, refuse_pause, per_minute=2)

    def refuse_pause(load: Load) -> None:
        if load.pause:
            raise Overloaded("CALLER_RATE", "wait", load.pause)

    add(one, "a")
    add(two, "b")
    one.delete_adaptation("a")  # deleted ones count, too
    for records in pair:
        with pytest.raises(Overloaded) as caught:
            add(records, "c")
        assert 0 < caught.value.retry_seconds <= 60
        assert 0 < records.load("ann", 2).pause <= 60
    assert two.load("ann", 3).pause == 0
    assert two.load("ann").pause == 0
    add(two, "d", caller="bob")
    with (
        closing(open_database(read_address(address, Path()))) as database,
        database.change() as connection,
    ):
        connection.execute(update(STARTS).values(time=STARTS.c.time - 60_000))
    add(two, "e")
    assert one.load("ann", 1).pause > 0
    with closing(open_database(read_address(address, Path()))) as database:
        assert [row.adaptation for row in database.read(select(STARTS))] == ["e"]


def work_of(pair: tuple[Records, Records], **fields: Any) -> list[str]:
    """Return the ids that answer a request with the work `w` at another front."""
    _, two = pair
    wanted = replace(RECORD, id="new", work="w", owner="ann", **fields)
    twins = two.twins(wanted, finished=True) + two.twins(wanted, finished=False)
    return [twin.id for twin in twins]


def test_adaptations_with_the_same_work(pair: tuple[Records, Records]) -> None:
    one, _ = pair
    ends = {"a": State.SUCCEEDED, "b": State.FAILED, "c": State.CANCELLED, "d": State.RUNNING}
    for id_, state in ends.items():
        record = replace(RECORD, id=id_, work="w", owner="ann")
        one.insert(record)
        model = replace(MODEL, id=id_, owner="ann") if state is State.SUCCEEDED else None
        one.update(replace(record, state=state), (), model)
    one.insert(replace(RECORD, id="e", work="w", owner="ann"))
    one.insert(replace(RECORD, id="f", work="w", owner="bob"))
    one.insert(replace(RECORD, id="g", work="x", owner="ann"))
    one.insert(replace(RECORD, id="h", owner="ann"))
    assert work_of(pair) == ["a", "e", "d"]
    one.fronts.ask_to_cancel("d")
    assert work_of(pair) == ["a", "e"]
    one.models.delete("a", "ann")
    assert work_of(pair) == ["e"]
    one.delete_adaptation("e")
    assert work_of(pair) == []
    wanted = replace(RECORD, id="new", owner="ann")  # its work is not known
    assert one.twins(wanted, finished=False) == []


def test_the_same_work_at_two_fronts(pair: tuple[Records, Records]) -> None:
    one, two = pair
    first = replace(RECORD, work="w", deadline=5)
    one.insert(first, "ann", admit)
    with pytest.raises(AlreadyAccepted):
        two.insert(replace(first, id="two"), "ann", admit, reuse=True)
    two.insert(replace(first, id="three"), "ann", admit)
    # its own limit of time is longer
    two.insert(replace(first, id="four", deadline=6), "ann", admit, reuse=True)


@pytest.mark.parametrize(
    ("running", "wanted", "outlasts"),
    [
        ((0, 9), (0, 9), True),
        ((0, 9), (5, 9), True),
        ((5, 9), (5, 9), True),
        ((5, 9), (4, 9), True),
        ((5, 9), (6, 9), False),
        ((5, 9), (0, 9), False),
        ((0, 8), (0, 9), False),
        ((0, 10), (0, 9), True),
    ],
)
def test_an_adaptation_outlasts_another_one(
    running: tuple[int, float], wanted: tuple[int, float], outlasts: bool
) -> None:
    """Each has a deadline, 0 for none, and a timeout."""
    one, other = (
        replace(RECORD, deadline=deadline, timeout=timeout)
        for deadline, timeout in (running, wanted)
    )
    assert one.outlasts(other) is outlasts


def test_the_same_request_at_two_fronts(pair: tuple[Records, Records]) -> None:
    one, two = pair
    asked = replace(RECORD, request_id="r")
    one.insert(asked, "ann", admit)
    with pytest.raises(AlreadyAccepted):
        two.insert(replace(asked, id="two"), "ann", admit)
    assert two.by_request("", "r") == asked


def plans_of(database: Database) -> list[str]:
    """Return the list that gets the steps of each query from now on."""
    plans = list[str]()

    def explain(
        connection: Connection, cursor: object, statement: str, values: Any, *_: object
    ) -> None:
        rows = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", values)
        plans.extend(str(detail) for *_, detail in rows)

    for engine in (database.reads, database.changes):
        event.listen(engine, "before_cursor_execute", explain)
    return plans


def test_queries_of_unfinished_work_skip_ended_work(tmp_path: Path) -> None:
    """They use the index of unfinished adaptations, also if millions have ended."""
    with closing(open_database(tmp_path / "records.sqlite3")) as database:
        plans, records = plans_of(database), Records(database)
        looks = (
            lambda: records.load("ann"),
            records.fronts.mine,
            records.fronts.orphans,
            lambda: records.fronts.waiting_elsewhere(1),
        )
        for look in looks:
            look()
    used = [plan for plan in plans if "adaptations" in plan]
    assert len(used) >= len(looks)
    assert {plan for plan in used if "adaptation_unfinished" not in plan} == set()


def test_queries_of_files_use_an_index(tmp_path: Path) -> None:
    """They come with each end of an adaptation, and with each deletion of a model."""
    with closing(open_database(tmp_path / "records.sqlite3")) as database:
        plans, records = plans_of(database), Records(database)
        assert not records.files.is_needed("digest")
        assert records.models.total_bytes(pinned=True) == 0
    names = {name for plan in plans for name in plan.split() if "_" in name}
    assert names >= {"adaptation_support", "model_file", "model_pinned"}
