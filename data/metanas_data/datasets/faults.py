"""Images of a data set that cannot be read: refuse all of them together, or leave them out."""

import logging
from typing import NoReturn

from metanas_data.errors import DatasetError

NAMED = 5
"""The most images that an error names."""

Faults = dict[str, str]
"""Place of an image that cannot be read (a path, or a class and a number) -> the reason."""

log = logging.getLogger(__name__)


def refuse(faults: Faults) -> None:
    """Raise DATASET_IMAGE if there are faults."""
    if faults:
        names = [f"{place} ({reason})" for place, reason in faults.items()]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        message = f"{_count(faults)} cannot be read: {', '.join(names[:NAMED])}{more}"
        raise DatasetError("DATASET_IMAGE", f"{message}; repair or remove them")


def leave_out(faults: Faults) -> None:
    """Warn of all faults."""
    if faults:
        lines = "".join(f"\n  {place}: {reason}" for place, reason in faults.items())
        log.warning("%s cannot be read and left out:%s", _count(faults), lines)


def no_split(split: str, known: set[str]) -> NoReturn:
    """Raise DATASET_SPLIT with the splits that there are."""
    there = f"there are: {', '.join(sorted(known))}" if known else "the data set has no splits"
    raise DatasetError("DATASET_SPLIT", f"there is no split {split!r}; {there}")


def _count(faults: Faults) -> str:
    return "1 image" if len(faults) == 1 else f"{len(faults)} images"
