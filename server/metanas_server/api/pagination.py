"""Paginate lists: page sizes, and opaque tokens for the start of the next page."""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from metanas.errors import InvalidInput

DEFAULT_SIZE, LARGEST_SIZE = 50, 500  # entries, as the contract says
MAX_TOKEN = 256  # characters; the tokens of this module are shorter
MAX_POSITION = 2**63  # of a row in SQLite
MAX_PAGE_BYTES = 2**20
"""Size from which on a page takes no further entry: clients receive 4 MiB at most by default."""

Entry = TypeVar("Entry", bound=Message)


def page_size(asked: int) -> int:
    """Return the number of entries of a page.

    Raises:
        InvalidInput: PAGE_SIZE, the number is negative.
    """
    if asked < 0:
        raise InvalidInput.single(
            "page_size", "PAGE_SIZE", "the page size is negative; use 0 for the default"
        )
    return min(asked or DEFAULT_SIZE, LARGEST_SIZE)


def cut(rows: Iterable[tuple[int, Entry]], size: int, query: str) -> tuple[list[Entry], str]:
    """Return the entries of a page and the token of the next one; empty after the last page.

    rows: entries with their positions, at least one more than the page takes if there are more.
    size: most entries.
    """
    entries, room, last = list[Entry](), MAX_PAGE_BYTES, 0
    for position, entry in rows:
        if len(entries) == size or room < 0:
            return entries, write_token(last, query)
        entries.append(entry)
        last, room = position, room - entry.ByteSize()
    return entries, ""


def write_token(position: int, query: str) -> str:
    """Return the token of the page that begins at this position of a list.

    query: the list and its filters.
    """
    return base64.urlsafe_b64encode(json.dumps([query, position]).encode()).decode()


def read_token(token: str, query: str) -> int | None:
    """Return the position of a token; None for the empty token of the first page.

    Raises:
        InvalidInput: PAGE_TOKEN, the token is malformed or belongs to another list.
    """
    if not token:
        return None
    try:
        # Check the length first: a long token could be nested deeper than the parser allows.
        raw = "" if len(token) > MAX_TOKEN else base64.urlsafe_b64decode(token.encode())
        token_query, position = json.loads(raw)
        if token_query == query and type(position) is int and 0 <= position < MAX_POSITION:
            return position
    except (binascii.Error, ValueError, TypeError):
        pass
    message = "the page token belongs to no list with these filters; begin at the first page"
    raise InvalidInput.single("page_token", "PAGE_TOKEN", message)
