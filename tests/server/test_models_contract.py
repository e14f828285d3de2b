"""The contract of pins and shares of models, on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest
from sqlalchemy import event

from metanas_server.errors import NotFound, QuotaReached, StoreUnavailable
from metanas_server.records.address import open_database, read_address
from metanas_server.records.models import ModelLimits
from metanas_server.records.records import Records
from metanas_server.resources import EVERYBODY, ModelChange, ModelRecord
from tests.server.test_parts import MODEL, RECORD

LIMITS = ModelLimits(pinned=2, shares=3)


@pytest.fixture
def pair(address: str) -> Iterator[tuple[Records, Records]]:
    """The records as two fronts see them."""
    with (
        closing(Records(open_database(read_address(address, Path())), "a")) as one,
        closing(Records(open_database(read_address(address, Path())), "b")) as two,
    ):
        yield one, two


def add(records: Records, id_: str, owner: str = "ann", size: int = 1) -> None:
    """Add an adaptation and its model."""
    record = replace(RECORD, id=id_, owner=owner)
    records.insert(record)
    model = replace(MODEL, id=id_, owner=owner, sha256=f"file {id_}", size_bytes=size)
    records.update(record, (), model)


def change(
    records: Records,
    id_: str,
    scope: str | None = "ann",
    *,
    pinned: bool | None = None,
    share: tuple[str, ...] = (),
    unshare: tuple[str, ...] = (),
) -> ModelRecord:
    made = ModelChange(pinned=pinned, share_with=share, unshare=unshare)
    return records.models.update(id_, scope, made, LIMITS)


def readers(records: Records, id_: str) -> set[str]:
    """Return those of three callers that can read a model."""
    found = set[str]()
    for name in ("ann", "bob", "eve"):
        try:
            records.models.get(id_, name)
        except NotFound:
            continue
        found.add(name)
    return found


def test_a_model_is_read_by_those_that_it_is_shared_with(pair: tuple[Records, Records]) -> None:
    one, two = pair
    for id_ in ("x", "y", "z"):
        add(one, id_)
    assert readers(two, "x") == {"ann"}
    assert change(one, "x", share=("bob", "bob2")).shared_with == ("bob", "bob2")
    assert readers(two, "x") == {"ann", "bob"}
    change(one, "y", share=(EVERYBODY, "bob"))
    assert readers(two, "y") == {"ann", "bob", "eve"}
    listed = [model.id for _, model in two.models.shared(None, 9, "bob")]
    assert (listed, two.models.shared_ids(9, "eve")) == (["y", "x"], ["y"])
    first, *_ = two.models.shared(None, 9, "bob")
    assert [model.id for _, model in two.models.shared(first[0], 9, "bob")] == ["x"]
    assert two.models.page(None, 9, "bob") == []
    assert two.models.shared(None, 9, "ann") == []  # they are hers
    assert change(two, "y", unshare=(EVERYBODY,)).shared_with == ("bob",)
    assert readers(one, "y") == {"ann", "bob"}
    assert change(two, "y", unshare=("bob", "nobody")).shared_with == ()
    assert readers(one, "y") == {"ann"}
    assert change(one, "x", share=("bob",), unshare=("bob", "bob2")).shared_with == ("bob",)


def test_the_owner_alone_changes_and_deletes(pair: tuple[Records, Records]) -> None:
    one, two = pair
    add(one, "x")
    change(one, "x", share=("bob", EVERYBODY))
    for id_, scope in (("x", "bob"), ("x", ""), ("unknown", "ann"), ("unknown", None)):
        with pytest.raises(NotFound):
            change(two, id_, scope, pinned=True, share=("eve",))
        with pytest.raises(NotFound):
            two.models.delete(id_, scope)
    assert two.models.get("x", None).shared_with == (EVERYBODY, "bob")
    assert change(two, "x", None, pinned=True).pinned  # an admin
    assert two.models.delete("x", "ann") == "file x"
    one.delete_adaptation("x")
    add(one, "x")
    assert readers(one, "x") == {"ann"}  # the shares have gone with the first model


def test_too_many_shares_change_nothing(pair: tuple[Records, Records]) -> None:
    one, _ = pair
    add(one, "x")
    change(one, "x", share=("a", "b"))
    change(one, "x", share=("a", "b", "c"))
    with pytest.raises(QuotaReached) as caught:
        change(one, "x", pinned=True, unshare=("a",), share=("d", "e"))
    assert caught.value.reason == "SHARES_FULL"
    shown = one.models.get("x", "ann")
    assert (shown.pinned, shown.shared_with) == (False, ("a", "b", "c"))
    assert change(one, "x", unshare=("a",), share=("d",)).shared_with == ("b", "c", "d")


def test_pins_are_counted_by_owner(pair: tuple[Records, Records]) -> None:
    one, two = pair
    for id_ in ("x", "y", "z"):
        add(one, id_)
    add(one, "b", owner="bob")
    for id_ in ("x", "y", "y"):
        assert change(one, id_, pinned=True).pinned
    for scope in ("ann", None):
        with pytest.raises(QuotaReached) as caught:
            change(two, "z", scope, pinned=True)
        assert caught.value.reason == "PINS_FULL"
    assert change(two, "b", "bob", pinned=True).pinned
    assert not change(two, "x", pinned=False).pinned
    assert change(two, "z", pinned=True).pinned
    assert two.models.delete("z", "ann") == "file z"
    assert change(two, "x", pinned=True).pinned


def test_pins_at_two_fronts_keep_the_limit(pair: tuple[Records, Records]) -> None:
    one, _ = pair
    for number in range(8):
        add(one, f"{number}")
    refused, start = list[str](), Barrier(2)

    def work(records: Records, ids: str) -> None:
        start.wait(60)
        for id_ in ids:
            try:
                change(records, id_, pinned=True)
            except QuotaReached:
                refused.append(id_)

    threads = [
        Thread(target=work, args=(each, ids))
        for each, ids in zip(pair, ("0123", "4567"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 8 - LIMITS.pinned
    assert one.models.total_bytes(pinned=True) == LIMITS.pinned


def test_two_fronts_write_down_uses_of_the_same_models(pair: tuple[Records, Records]) -> None:
    """Rows that are locked in two orders are a deadlock."""
    ids = [f"{number:03}" for number in range(100)]
    for id_ in ids:
        add(pair[0], id_)
    rounds, failures = Barrier(2), list[Exception]()

    def work(records: Records, order: list[str]) -> None:
        for _ in range(10):
            for id_ in order:
                records.models.mark_used(id_)
            rounds.wait(60)
            try:
                records.models.write_uses()
            except StoreUnavailable as error:
                failures.append(error)

    threads = [
        Thread(target=work, args=(each, order))
        for each, order in zip(pair, (ids, ids[::-1]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_pinned_models_stay(pair: tuple[Records, Records]) -> None:
    one, two = pair
    for number, id_ in enumerate(("x", "y"), 1):
        add(one, id_, size=number)
    change(one, "x", pinned=True)
    assert [id_ for id_, _, _ in two.models.longest_unused(9)] == ["y"]
    sizes = (two.models.total_bytes(), two.models.total_bytes(pinned=True))
    assert (*sizes, two.models.largest_bytes()) == (3, 1, 2)
    with pytest.raises(NotFound):
        two.models.delete("x", None, unless_pinned=True)
    assert two.models.delete("y", None, unless_pinned=True) == "file y"
    assert two.models.delete("x", "ann") == "file x"  # by its owner
    assert (two.models.total_bytes(), two.models.largest_bytes()) == (0, 0)


LOOKS: list[Callable[[Records, str], object]] = [
    lambda records, id_: records.models.get(id_, "bob"),
    lambda records, id_: change(records, id_, "bob", pinned=True, share=("eve",)),
    lambda records, id_: records.models.delete(id_, "bob"),
    lambda records, id_: records.adaptation(id_, "bob"),
]


def statements(address: str, look: Callable[[Records, str], object], id_: str) -> list[str]:
    """Return the statements of a look that finds nothing."""
    made = list[str]()
    with closing(open_database(read_address(address, Path()))) as database:

        def note(_: object, __: object, statement: str, *___: object) -> None:
            made.append(statement)

        for engine in {database.changes, database.reads}:
            event.listen(engine, "before_cursor_execute", note)
        with pytest.raises(NotFound):
            look(Records(database), id_)
    return made


@pytest.mark.parametrize("look", LOOKS, ids=["get", "update", "delete", "adaptation"])
def test_foreign_ids_take_the_same_work_as_unknown_ones(
    pair: tuple[Records, Records], address: str, look: Callable[[Records, str], object]
) -> None:
    """Then the time tells nothing, too."""
    one, _ = pair
    add(one, "x")
    change(one, "x", share=("eve",))
    asked = statements(address, look, "x")
    assert asked
    assert asked == statements(address, look, "unknown")
