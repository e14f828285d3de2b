"""The fronts that share a database: their leases, and the adaptations that each of them has.

Each unfinished adaptation belongs to one front, which alone may change its row. A front renews its
lease with `beat`. A front whose last beat stays the same for the time of a lease is dead: another
one buries it and takes its adaptations. Each front measures this with its own steady clock, so no
jump of a clock, also not of that of the database, ends a lease or keeps one.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import (
    ColumnElement,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from metanas_server.clock import Clock
from metanas_server.errors import NotFound
from metanas_server.records.database import Database
from metanas_server.records.migrate import running
from metanas_server.records.rows import (
    ADAPTATION,
    read_adaptation,
    read_all_progress,
    read_progress,
    sound,
)
from metanas_server.records.tables import ADAPTATIONS, FRONTS, IS_UNFINISHED, PROGRESS
from metanas_server.resources import AdaptationRecord, ProgressRecord, State

DAMAGED = "damaged"
"""The state in the row of an unfinished adaptation whose record is damaged; no front takes it."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """An adaptation that belongs to this front now.

    caller: the name of its caller.
    cancel: True if a caller has cancelled it at another front.
    """

    record: AdaptationRecord
    caller: str
    cancel: bool


class Fronts:
    """One front's view of the fronts; all methods may be called from any thread.

    All of them raise `StoreUnavailable` if the database cannot be used now.
    """

    def __init__(self, database: Database, front: str, clock: Clock) -> None:
        """Use a database under the name of a front; `beat` announces it.

        clock: it follows the clock of the database from the first beat on.
        """
        self.name = front
        self._database = database
        self._clock = clock
        self._now = database.clock

    def beat(self) -> None:
        """Renew the lease; also that of a front that another one has buried."""
        row = FRONTS.c.id == self.name
        with self._database.change() as connection:
            renew = update(FRONTS).where(row).values(seen=self._now).returning(FRONTS.c.seen)
            seen = connection.scalar(renew)
            if seen is None:
                join = insert(FRONTS).values(id=self.name, seen=self._now)
                seen = connection.scalar(join.returning(FRONTS.c.seen))
        self._clock.follow(int(seen) * 10**6)

    def beats(self) -> Mapping[str, int]:
        """Return the last beat of each front."""
        return dict(self._database.read(select(FRONTS.c.id, FRONTS.c.seen)))

    def bury(self, silent: Mapping[str, int]) -> int:
        """Remove fronts unless they have beaten again; return the number.

        silent: their last beats.
        """
        last = tuple_(FRONTS.c.id, FRONTS.c.seen).in_(list(silent.items()))
        with self._database.change() as connection:
            return connection.execute(delete(FRONTS).where(last)).rowcount

    def running(self) -> list[str]:
        """Return the names of the fronts that have beaten within `SILENCE`."""
        return [id_ for (id_,) in self._database.read(running(self._database.reads.dialect.name))]

    def leave(self) -> None:
        """End the lease: other fronts may take the unfinished adaptations at once."""
        with self._database.change() as connection:
            connection.execute(delete(FRONTS).where(FRONTS.c.id == self.name))

    def count(self) -> int:
        """Return the number of fronts."""
        ((number,),) = self._database.read(select(func.count()).select_from(FRONTS))
        return int(number)

    def orphans(self) -> list[Taken]:
        """Take the unfinished adaptations of fronts that are gone, oldest first."""
        alive = select(FRONTS.c.id)
        return self._take(ADAPTATIONS.c.front.not_in(alive))

    def claim(self, pairs: Collection[tuple[str, str]]) -> list[Taken]:
        """Take waiting adaptations of other fronts, unless they have begun or moved.

        pairs: the id of each adaptation, and the front that it was seen at.
        """
        columns = ADAPTATIONS.c
        seen = tuple_(columns.id, columns.front).in_(list(pairs))
        return self._take(seen, columns.state == State.QUEUED)

    def waiting_elsewhere(self, count: int) -> list[tuple[str, str, AdaptationRecord]]:
        """Return id, front and record of adaptations that wait at other fronts.

        The first one of each caller comes before the second one of any.
        """
        columns = ADAPTATIONS.c
        turn = func.row_number().over(partition_by=columns.caller, order_by=columns.number)
        query = select(*ADAPTATION, columns.front)
        waits = (IS_UNFINISHED, columns.state == State.QUEUED)
        query = query.where(*waits, columns.front != self.name)
        rows = self._database.read(query.order_by(turn, columns.number).limit(count))
        return [(record.id, row.front, record) for row, record in sound(rows, read_adaptation)]

    def mine(self) -> Mapping[str, bool]:
        """Return the ids of this front's unfinished adaptations; True for the cancelled ones."""
        columns = ADAPTATIONS.c
        query = select(columns.id, columns.cancel)
        query = query.where(IS_UNFINISHED, columns.front == self.name)
        return {id_: bool(cancel) for id_, cancel in self._database.read(query)}

    def take_again(self, ids: Collection[str]) -> list[Taken]:
        """Return unfinished adaptations of this front."""
        return self._take(ADAPTATIONS.c.id.in_(list(ids)), ADAPTATIONS.c.front == self.name)

    def take_waiting(self, id_: str) -> list[Taken]:
        """Take an adaptation from whichever front it waits at; empty if it does not wait."""
        return self._take(ADAPTATIONS.c.id == id_, ADAPTATIONS.c.state == State.QUEUED)

    def taken_away(self, ids: Collection[str]) -> set[str]:
        """Return those of these adaptations that belong to another front now."""
        columns = ADAPTATIONS.c
        query = select(columns.id).where(columns.id.in_(list(ids)), columns.front != self.name)
        return {id_ for (id_,) in self._database.read(query)} if ids else set()

    def ask_to_cancel(self, id_: str) -> None:
        """Tell the front of an unfinished adaptation that a caller has cancelled it."""
        row = (ADAPTATIONS.c.id == id_, IS_UNFINISHED)
        with self._database.change() as connection:
            connection.execute(update(ADAPTATIONS).where(*row).values(cancel=1))
            self._database.notify(connection, self.name, [id_])

    def write_progress(self, entries: Mapping[str, Sequence[ProgressRecord]]) -> None:
        """Write down the new progress of this front's adaptations, for the other fronts.

        It is lost if the database loses power: a record has all of its progress at the end.
        """
        columns = ADAPTATIONS.c
        own = select(columns.id).where(
            columns.id.in_(list(entries)),
            columns.front == self.name,
            IS_UNFINISHED,
        )
        with self._database.change() as connection:
            self._database.do_not_wait_for_the_disk(connection)
            # The lock of the row keeps its end from coming between: it would leave entries behind.
            ids = connection.scalars(own.with_for_update(read=True)).all()
            rows = [
                {"adaptation": id_, "sequence": each.sequence, "body": json.dumps(asdict(each))}
                for id_ in ids
                for each in entries[id_]
            ]
            if rows:
                enter = self._database.insert_into(PROGRESS).on_conflict_do_nothing()
                # With RETURNING all rows go in one statement.
                connection.execute(enter.returning(PROGRESS.c.sequence), rows)
            self._database.notify(connection, self.name, ids)

    def news(self, id_: str, after: int) -> tuple[AdaptationRecord, list[ProgressRecord]]:
        """Return an adaptation as it is, and its progress beyond a number.

        Raises:
            NotFound: UNKNOWN_ADAPTATION, it was deleted.
        """
        columns = ADAPTATIONS.c
        query = select(*ADAPTATION, columns.progress).where(columns.id == id_)
        rows = self._database.read(query)
        if not rows:
            raise NotFound("adaptation", f"adaptations/{id_}")
        record = read_adaptation(rows[0])
        if record.state.final:
            progress = read_all_progress(rows[0].progress)
            return record, [each for each in progress if each.sequence > after]
        query = select(PROGRESS.c.body).where(
            PROGRESS.c.adaptation == id_, PROGRESS.c.sequence > after
        )
        found = self._database.read(query.order_by(PROGRESS.c.sequence))
        return record, [entry for (body,) in found if (entry := read_progress(body)) is not None]

    def _take(self, *conditions: ColumnElement[bool]) -> list[Taken]:
        """Make unfinished adaptations those of this front, and put damaged ones aside."""
        columns = ADAPTATIONS.c
        change = update(ADAPTATIONS).where(IS_UNFINISHED, *conditions)
        change = change.values(front=self.name)
        with self._database.change() as connection:
            rows = connection.execute(
                change.returning(*ADAPTATION, columns.caller, columns.cancel, columns.number)
            ).all()
            taken = {
                row.number: Taken(record=record, caller=row.caller, cancel=bool(row.cancel))
                for row, record in sound(rows, read_adaptation)
            }
            damaged = [row.number for row in rows if row.number not in taken]
            if damaged:
                aside = update(ADAPTATIONS).where(columns.number.in_(damaged))
                connection.execute(aside.values(state=DAMAGED))
            self._database.notify(connection, self.name, [row.id for row in rows])
        return [taken[number] for number in sorted(taken)]
