"""The records: adaptations, and with them models, loose files and fronts, as rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from metanas_server.clock import Clock
from metanas_server.errors import AlreadyAccepted, LeaseLost, NotFound
from metanas_server.records.damage import Damage
from metanas_server.records.database import Database
from metanas_server.records.files import Files
from metanas_server.records.fronts import Fronts
from metanas_server.records.models import Models
from metanas_server.records.rows import (
    ADAPTATION,
    enough,
    later,
    read_adaptation,
    read_all_progress,
    read_progress,
    sound,
    write_adaptation,
    write_progress,
)
from metanas_server.records.tables import (
    ADAPTATIONS,
    FRONTS,
    IS_UNFINISHED,
    MODELS,
    PROGRESS,
    STARTS,
)
from metanas_server.resources import (
    AdaptationRecord,
    ModelRecord,
    ProgressRecord,
    State,
)

LAST_PROGRESS = func.coalesce(
    select(PROGRESS.c.body)
    .where(PROGRESS.c.adaptation == ADAPTATIONS.c.id)
    .order_by(PROGRESS.c.sequence.desc())
    .limit(1)
    .scalar_subquery(),
    ADAPTATIONS.c.last_progress,
)
"""The last progress of a row: that of a running adaptation is in a table of its own."""

MINUTE = 60_000  # milliseconds
MOST_TWINS = 4  # adaptations with the same work that are looked at


@dataclass(frozen=True)
class Load:
    """The work of all fronts.

    waiting: adaptations that wait for a worker.
    unfinished: adaptations of one caller that have not ended.
    fronts: fronts that share the database.
    pause: seconds until this caller may start another adaptation.
    running: adaptations on workers.
    ahead: waiting adaptations whose turn comes before that of the next one of this caller.
    """

    waiting: int
    unfinished: int
    fronts: int
    pause: float = 0.0
    running: int = 0
    ahead: int = 0


class Records:
    """The records; all methods may be called from any thread.

    All of them may wait for the database: call them from another thread than the event loop's. Each
    change is one transaction, which is on the disk when the method returns.

    All raise `StoreUnavailable` if the database cannot be used now. Those that return one record
    raise `StoreError` (RECORD_DAMAGED) if it has changed since it was written.

    scope: the owner whose rows the caller sees; None stands for all owners. A row of another owner
    is found as little as a row that does not exist.
    """

    def __init__(self, database: Database, front: str = "") -> None:
        """Use an open database, and close it at the end.

        front: the name of this server among those that share the database.
        """
        self.clock = Clock()
        self.files = Files(database, front)
        self.fronts = Fronts(database, front, self.clock)
        self.models = Models(database, self.files, self.clock)
        self.damage = Damage(database)
        self._database = database
        self._front = front

    @property
    def is_shared(self) -> bool:
        """True if several fronts may use the database at the same time."""
        return self._database.is_shared

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def probe(self) -> None:
        """Check that the database can be changed.

        Raises:
            StoreUnavailable: it cannot.
        """
        with self._database.change() as connection:
            self.files.note(connection, "probe")
            self.files.forget(connection, "probe")

    def load(self, caller: str, per_minute: int = 0) -> Load:
        """Return the work of all fronts, and of a caller.

        per_minute: see `insert`.
        """
        [row] = self._database.read(self._load(caller, per_minute))
        return _read_load(row)

    def insert(
        self,
        record: AdaptationRecord,
        caller: str = "",
        admit: Callable[[Load], None] | None = None,
        *,
        per_minute: int = 0,
        reuse: bool = False,
    ) -> None:
        """Add an adaptation; its support set is no longer loose.

        caller: the name of the caller, for its quota.
        admit: raises an error if the load of all fronts does not allow it.
        per_minute: most adaptations that the caller starts in a minute; 0 sets no limit.
        reuse: True adds no adaptation whose work another one does already.

        Raises:
            AlreadyAccepted: another front has accepted the same request or work.
        """
        columns = write_adaptation(record) | write_progress(())
        row = insert(ADAPTATIONS).values(front=self._front, caller=caller, **columns)
        with self._database.change() as connection:
            if admit is not None:
                self._database.lock(connection, "queue")
                if self._is_known_elsewhere(connection, record, reuse=reuse):
                    raise AlreadyAccepted("REQUEST_KNOWN", "send the request again")
                admit(_read_load(connection.execute(self._load(caller, per_minute)).one()))
            if per_minute:
                self._note_start(connection, record.id, caller)
            connection.execute(row)
            self.files.forget(connection, record.support)

    def update(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord] | None = None,
        model: ModelRecord | None = None,
    ) -> None:
        """Replace an adaptation; also store its progress and its model if they are given.

        A support set that the record no longer needs becomes loose. The same change may be made
        again: a broken connection does not tell whether it was made.

        Raises:
            LeaseLost: the adaptation belongs to another front.
        """
        row = (ADAPTATIONS.c.id == record.id) & (ADAPTATIONS.c.front == self._front)
        values = write_adaptation(record)
        if progress is not None:
            values |= write_progress(progress)
        with self._database.change() as connection:
            former = connection.scalar(select(ADAPTATIONS.c.support).where(row))
            if former and former != record.support:
                self.files.note(connection, former)
            if not connection.execute(update(ADAPTATIONS).where(row).values(values)).rowcount:
                raise LeaseLost("ADAPTATION_MOVED", f"adaptations/{record.id} has moved")
            if record.state.final:
                connection.execute(delete(PROGRESS).where(PROGRESS.c.adaptation == record.id))
            if model is not None:
                self.models.insert(connection, model)
            self._database.notify(connection, self._front, [record.id])

    def adaptation(self, id_: str, scope: str | None) -> AdaptationRecord:
        """Return the adaptation with this id.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        query = select(*ADAPTATION).where(ADAPTATIONS.c.id == id_, *_within(scope))
        rows = self._database.read(query)
        if not rows:
            raise NotFound("adaptation", f"adaptations/{id_}")
        return read_adaptation(rows[0])

    def progress(self, id_: str) -> tuple[ProgressRecord, ...]:
        """Return the progress of an adaptation that has ended; empty before, or if damaged."""
        query = select(ADAPTATIONS.c.progress).where(ADAPTATIONS.c.id == id_)
        rows = self._database.read(query)
        return read_all_progress(rows[0][0]) if rows else ()

    def last_progress(self, id_: str) -> ProgressRecord | None:
        """Return the last progress of an adaptation; None before the first."""
        query = select(LAST_PROGRESS).where(ADAPTATIONS.c.id == id_)
        rows = self._database.read(query)
        return read_progress(rows[0][0]) if rows else None

    def by_request(self, owner: str, request_id: str) -> AdaptationRecord | None:
        """Return the owner's adaptation with this request id, unless it is cancelled."""
        rows = self._database.read(_by_request(owner, request_id)) if request_id else []
        return read_adaptation(rows[0]) if rows else None

    def twins(self, record: AdaptationRecord, *, finished: bool) -> list[AdaptationRecord]:
        """Return adaptations of an owner with the same work, the latest first.

        finished: True for those that have succeeded and whose models are there; False for those
            that have not ended, without the cancelled ones.
        """
        rows = self._database.read(_by_work(record, finished=finished))
        return [twin for _, twin in sound(rows, read_adaptation)]

    def unfinished(self) -> list[AdaptationRecord]:
        """Return the adaptations that have not ended, oldest first."""
        columns = ADAPTATIONS.c
        query = select(*ADAPTATION).where(IS_UNFINISHED).order_by(columns.number)
        return [record for _, record in sound(self._database.read(query), read_adaptation)]

    def adaptations(
        self, before: int | None, count: int, state: State | None, scope: str | None
    ) -> list[tuple[int, AdaptationRecord, ProgressRecord | None]]:
        """Return adaptations with their numbers and last progress, newest first.

        Damaged ones are left out.

        before: the number above theirs; None begins with the newest.
        count: most adaptations.
        """
        columns = ADAPTATIONS.c
        query = select(*ADAPTATION, columns.number, LAST_PROGRESS.label("last"))
        if state is not None:
            query = query.where(columns.state == state)
        if before is not None:
            query = query.where(columns.number < before)
        query = query.where(*_within(scope)).order_by(columns.number.desc())

        def after(last: Any, most: int) -> Sequence[Any]:
            below = query if last is None else query.where(columns.number < last.number)
            return self._database.read(below.limit(most))

        found = enough(count, after, read_adaptation)
        return [(row.number, record, read_progress(row.last)) for row, record in found]

    def delete_adaptation(self, id_: str) -> None:
        """Delete an adaptation; also on a full disk."""
        row = delete(ADAPTATIONS).where(ADAPTATIONS.c.id == id_)
        self._database.make_room(lambda connection: connection.execute(row))

    def ended(self, before: int, count: int) -> list[str]:
        """Return the ids of adaptations that ended before a time, the oldest first.

        Damaged ones are left out.
        """
        ended, number = ADAPTATIONS.c.ended, ADAPTATIONS.c.number
        query = select(*ADAPTATION, number).where(ended > 0, ended < before).order_by(ended, number)

        def after(last: Any, most: int) -> Sequence[Any]:
            rest = query if last is None else query.where(later(ended, number, last))
            return self._database.read(rest.limit(most))

        return [record.id for _, record in enough(count, after, read_adaptation)]

    def fill_reserve(self) -> None:
        """Reserve room on the disk for a deletion, if there is any."""
        if self._database.reserve is not None:
            self._database.reserve.fill()

    def _load(self, caller: str, per_minute: int) -> Select[Any]:
        """Return the query for the fields of a load; the pause is in milliseconds."""
        columns, count = ADAPTATIONS.c, func.count()
        queued, begun = (columns.state == each for each in (State.QUEUED, State.RUNNING))
        waiting = select(count).where(IS_UNFINISHED, queued).scalar_subquery()
        running = select(count).where(IS_UNFINISHED, begun).scalar_subquery()
        own = (IS_UNFINISHED, columns.caller == caller)
        unfinished = select(count).where(*own).scalar_subquery()
        queues = select(count.label("length")).where(IS_UNFINISHED, queued)
        length, turn = queues.group_by(columns.caller).subquery().c.length, unfinished + 1
        ahead = select(func.coalesce(func.sum(case((length < turn, length), else_=turn)), 0))
        fronts = select(count).select_from(FRONTS).scalar_subquery()
        pause: ColumnElement[Any] = literal(0)
        if per_minute:
            known = (STARTS.c.caller == caller, STARTS.c.time <= self._database.clock)
            starts = select(STARTS.c.time).where(*known)  # those ahead: the clock has gone back
            starts = starts.order_by(STARTS.c.time.desc()).offset(per_minute - 1).limit(1)
            last = starts.scalar_subquery() + MINUTE
            pause = func.coalesce(last - self._database.clock, 0)
        return select(waiting, unfinished, fronts, pause, running, ahead.scalar_subquery())

    def _is_known_elsewhere(
        self, connection: Connection, record: AdaptationRecord, *, reuse: bool
    ) -> bool:
        """Return True if an adaptation that another front has accepted answers a request."""
        if connection.execute(_by_request(record.owner, record.request_id)).first() is not None:
            return True
        if not reuse:
            return False
        query = _by_work(record, finished=False).where(ADAPTATIONS.c.front != self._front)
        rows = connection.execute(query)
        return any(twin.outlasts(record) for _, twin in sound(rows, read_adaptation))

    def _note_start(self, connection: Connection, id_: str, caller: str) -> None:
        """Note that a caller has started an adaptation; forget those of earlier minutes."""
        clock = self._database.clock
        old = (STARTS.c.time < clock - MINUTE) | (STARTS.c.time > clock)
        connection.execute(delete(STARTS).where(old))
        connection.execute(insert(STARTS).values(adaptation=id_, caller=caller, time=clock))


def _by_request(owner: str, request_id: str) -> Select[Any]:
    """Return the query for a request's adaptation."""
    return select(*ADAPTATION).where(
        ADAPTATIONS.c.owner == owner,
        ADAPTATIONS.c.request_id == request_id,
        ADAPTATIONS.c.request_id != "",
        ADAPTATIONS.c.state != State.CANCELLED,
    )


def _by_work(record: AdaptationRecord, *, finished: bool) -> Select[Any]:
    """Return the query for adaptations with the same work."""
    columns = ADAPTATIONS.c
    query = select(*ADAPTATION).where(
        columns.owner == record.owner, columns.work == record.work, columns.work != ""
    )
    if finished:
        kept = exists().where(MODELS.c.id == columns.id)
        query = query.where(columns.state == State.SUCCEEDED, kept)
    else:
        query = query.where(IS_UNFINISHED, columns.cancel == 0)
    return query.order_by(columns.number.desc()).limit(MOST_TWINS)


def _read_load(row: Any) -> Load:
    waiting, unfinished, fronts, pause, running, ahead = row
    return Load(waiting, unfinished, fronts, max(0, pause) / 1000, running, int(ahead))


def _within(scope: str | None) -> list[ColumnElement[bool]]:
    """Return the condition for the adaptations of a scope."""
    return [] if scope is None else [ADAPTATIONS.c.owner == scope]
