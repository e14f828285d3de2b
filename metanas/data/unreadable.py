"""Images of a data set that cannot be read: counted, named, and refused together or left out."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from metanas.errors import DatasetError

NAMED = 5
"""Of many, so many are named."""
Note = Callable[[str, str], None]
"""Called with where an image is that cannot be read (a file below the data set's folder, an image
of a pack), and why."""
log = logging.getLogger(__name__)


@contextmanager
def refusing() -> Iterator[Note]:
    """A note to hand to readers; what was noted is one error, once all has been looked at.

    Raises:
        DatasetError: DATASET_IMAGE. It goes before what follows from it, such as an empty class.
    """
    bad: dict[str, str] = {}
    try:
        yield bad.__setitem__
    except DatasetError:
        if not bad:
            raise
    if bad:
        raise DatasetError("DATASET_IMAGE", f"{_told(bad)}; repair or remove them")


@contextmanager
def skipping() -> Iterator[Note]:
    """A note to hand to readers; what was noted is a warning in the log, and left out."""
    bad: dict[str, str] = {}
    try:
        yield bad.__setitem__
    finally:  # an empty class may be an error because of them
        if bad:
            log.warning("%s, and left out", _told(bad))


def _told(bad: Mapping[str, str]) -> str:
    names = [f"{where} ({why})" for where, why in bad.items()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    plural = "images" if len(names) > 1 else "image"
    return f"{len(names)} {plural} cannot be read: {', '.join(names[:NAMED])}{more}"
