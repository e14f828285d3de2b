"""Pages of a list: sizes, and opaque tokens that say where the next page begins."""

import base64
import binascii
import json

from metanas_server.errors import InvalidRequest

DEFAULT_SIZE, LARGEST_SIZE = 50, 500


def page_size(asked: int) -> int:
    """How many entries a page gets.

    Raises:
        InvalidRequest: PAGE_SIZE, it is negative.
    """
    if asked < 0:
        raise InvalidRequest("page_size", "PAGE_SIZE", "the page size is negative")
    return min(asked or DEFAULT_SIZE, LARGEST_SIZE)


def write_token(position: int, query: str) -> str:
    """A token for the page from `position` on of the list that `query` stands for."""
    return base64.urlsafe_b64encode(json.dumps([query, position]).encode()).decode()


def read_token(token: str, query: str) -> int | None:
    """The position in a token; None for the empty token of the first page.

    Raises:
        InvalidRequest: PAGE_TOKEN, it is none of ours or belongs to another query.
    """
    if not token:
        return None
    try:
        theirs, position = json.loads(base64.urlsafe_b64decode(token.encode()))
        if theirs == query and type(position) is int:
            return position
    except (binascii.Error, ValueError, TypeError):
        pass
    message = "the page token belongs to no list with these filters; begin at the first page"
    raise InvalidRequest("page_token", "PAGE_TOKEN", message)
