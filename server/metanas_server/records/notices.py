"""Notices: PostgreSQL tells the fronts which adaptations have changed."""

from collections.abc import AsyncGenerator

from sqlalchemy import URL

from metanas_server.errors import StoreUnavailable
from metanas_server.records.database import CHANNEL
from metanas_server.records.postgresql import NETWORK


async def listen(url: URL) -> AsyncGenerator[tuple[str, str]]:
    """Yield the front that has made a change, and the id of the changed adaptation.

    The first pair is empty: notices are heard from now on.

    Raises:
        StoreUnavailable: STORE_FAILED, the connection is broken, and notices may be lost.
    """
    import psycopg  # an extra of the package
    from psycopg.conninfo import make_conninfo

    address = make_conninfo(url.render_as_string(hide_password=False), **NETWORK)
    try:
        opened = await psycopg.AsyncConnection.connect(address, autocommit=True)
        async with opened:
            await opened.execute(f"LISTEN {CHANNEL}".encode())
            yield "", ""
            async for notice in opened.notifies():
                front, _, id_ = notice.payload.partition(" ")
                yield front, id_
    except psycopg.Error as error:
        raise StoreUnavailable("STORE_FAILED", "the database sends no notices now") from error
