"""Images of a data set that cannot be read: counted, named, and refused together or left out."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from metanas.errors import DatasetError, InvalidInput
from metanas.util.formatting import counted

NAMED = 5
"""Of many, so many are named in an error."""
HOW = ("refuse", "skip")
"""What can become of images that cannot be read."""
Note = Callable[[str, str], None]
"""Called with where an image is that cannot be read (a file below the data set's folder, an image
of a pack), and why."""
log = logging.getLogger(__name__)


def noting(how: str) -> AbstractContextManager[Note]:
    """A note to hand to readers, by what is to become of what is noted: one of `HOW`."""
    return _skipping() if how == "skip" else _refusing()


def reason_of(error: InvalidInput) -> str:
    """Why an image cannot be read, in words."""
    return error.violations[0].message.partition(";")[0]


@contextmanager
def _refusing() -> Iterator[Note]:
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
def _skipping() -> Iterator[Note]:
    """A note to hand to readers; what was noted is left out, and all of it in a warning."""
    bad: dict[str, str] = {}
    try:
        yield bad.__setitem__
    finally:  # an empty class may be an error because of them
        if bad:
            every = "".join(f"\n  {where}: {why}" for where, why in bad.items())
            log.warning("%s cannot be read, and left out:%s", _count(bad), every)


def _told(bad: Mapping[str, str]) -> str:
    names = [f"{where} ({why})" for where, why in bad.items()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{_count(bad)} cannot be read: {', '.join(names[:NAMED])}{more}"


def _count(bad: Mapping[str, str]) -> str:
    return counted(len(bad), "image", "images")
