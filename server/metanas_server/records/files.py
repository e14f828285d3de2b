"""The files that records need, and loose ones, which may exist without a record."""

from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, delete, exists, select, union, update

from metanas_server.errors import StoreUnavailable
from metanas_server.records.database import Database
from metanas_server.records.tables import ADAPTATIONS, FRONTS, LOOSE, MODELS, STORE, WITH_SUPPORT

ALIVE = select(FRONTS.c.id)


class Files:
    """The digests of files, as one front notes them; all methods may be called from any thread.

    A file is loosened before it is written. Its record makes it needed; without a record the front
    discards it, or after a crash another one does.

    All methods raise `StoreUnavailable` if the database cannot be used now.
    """

    def __init__(self, database: Database, front: str) -> None:
        """Use a database under the name of a front."""
        self._database = database
        self._front = front
        self._noted = set[str]()
        """Digests that this front has noted as loose, and not forgotten."""

    def mark(self) -> str:
        """Return the mark of the store that belongs to the database."""
        ((mark,),) = self._database.read(select(STORE.c.mark))
        return str(mark)

    def place(self, put: Callable[[str, bool], None]) -> None:
        """Tie a store to the database; servers that start at the same time do so in turn.

        put: puts the mark on the store, or raises an error; True tells that one has the mark.
        """
        with self._database.change() as connection:
            self._database.lock(connection, "store")
            mark, placed = connection.execute(select(STORE.c.mark, STORE.c.placed)).one()
            put(mark, bool(placed))
            if not placed:
                connection.execute(update(STORE).values(placed=1))

    def loosen(self, digest: str) -> None:
        """Note that a file may exist without a record; no other front deletes it from now on."""
        with self._database.change() as connection:
            self._database.lock(connection, digest)
            self.note(connection, digest)
        self._noted.add(digest)

    def discard(self, digest: str, remove: Callable[[str], None]) -> None:
        """Delete a loose file, unless a record needs it or another front writes it now.

        remove: deletes the file.
        """
        if not self._database.is_shared:
            if not self.is_needed(digest):
                remove(digest)
            with self._database.change() as connection:
                self.forget(connection, digest)
            return
        writing = exists().where(
            LOOSE.c.digest == digest, LOOSE.c.front != self._front, LOOSE.c.front.in_(ALIVE)
        )
        with self._database.change() as connection:
            self._database.lock(connection, digest)
            if not connection.scalar(select(_is_needed(digest) | writing)):
                remove(digest)
            self._noted.discard(digest)
            self.forget(connection, digest)

    def loose(self) -> set[str]:
        """Return the loose files of this front and of those that are gone."""
        own = (LOOSE.c.front == self._front) | LOOSE.c.front.not_in(ALIVE)
        rows = self._database.read(select(LOOSE.c.digest).where(own).distinct())
        return {digest for (digest,) in rows} - self.needed()

    def known(self) -> set[str]:
        """Return the digests of all files that records need or that a front has noted."""
        rows = self._database.read(select(LOOSE.c.digest).distinct())
        return {digest for (digest,) in rows} | self.needed()

    def needed(self) -> set[str]:
        """Return the digests of all files that a record needs."""
        supports = select(ADAPTATIONS.c.support).where(WITH_SUPPORT)
        rows = self._database.read(union(supports, select(MODELS.c.sha256)))
        return {digest for (digest,) in rows}

    def is_needed(self, digest: str) -> bool:
        """Return True if a record needs the file of this digest."""
        ((needed,),) = self._database.read(select(_is_needed(digest)))
        return bool(needed)

    def note(self, connection: Connection, digest: str) -> None:
        """Note a loose file, as a part of a transaction."""
        row = self._database.insert_into(LOOSE).values(digest=digest, front=self._front)
        connection.execute(row.on_conflict_do_nothing())

    def forget(self, connection: Connection, digest: str) -> None:
        """Forget a loose file of this front, or of one that is gone, as a part of a transaction.

        Raises:
            StoreUnavailable: STORE_BUSY, this front counted as dead after it had noted the file,
                and another one may have deleted it.
        """
        file = delete(LOOSE).where(LOOSE.c.digest == digest)
        own = connection.execute(file.where(LOOSE.c.front == self._front)).rowcount
        connection.execute(file.where(LOOSE.c.front.not_in(ALIVE)))
        if digest in self._noted and not own:
            self._noted.discard(digest)
            message = "another server has deleted the file meanwhile; try again shortly"
            raise StoreUnavailable("STORE_BUSY", message)
        self._noted.discard(digest)


def _is_needed(digest: str) -> ColumnElement[bool]:
    support = exists().where(WITH_SUPPORT, ADAPTATIONS.c.support == digest)
    return support | exists().where(MODELS.c.sha256 == digest)
