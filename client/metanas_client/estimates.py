"""Estimates of a report in plain words."""

from collections.abc import Sequence

from metanas_client.text import percent, printable
from metanas_data.report import LeaveOneOut

MOST = 3
"""Most classes, confusions and images in a line."""


def estimate_rows(estimate: LeaveOneOut | None, files: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the rows of a summary: accuracy, weak classes, confusions, suspicious images.

    The last row names the class that needs more images.

    files: names of the support images, if they are known.
    """
    title = "accuracy on new images"
    if estimate is None:
        return [(title, "unknown: an estimate needs two images of a class")]
    interval = f"probably {100 * estimate.low:.0f} to {100 * estimate.high:.0f} %"
    rows = [(title, f"{percent(estimate.accuracy)} ({interval}; estimate)")]
    details = {
        "weakest classes": _weakest(estimate),
        "confused": [
            f"{printable(each.label)} for {printable(each.predicted)} ({each.images}×)"
            for each in estimate.confusions
        ],
        "probably mislabelled": [
            f"{_name(each.index, files)} (in {printable(each.label)}, "
            f"looks like {printable(each.looks_like)})"
            for each in estimate.suspicious
            if each.likely
        ],
    }
    rows += [(name, _short(parts)) for name, parts in details.items() if parts]
    if estimate.weakest is None:
        weakest = "unknown: an older release made the model; adapt again"
    else:
        weakest = printable(estimate.weakest) or "no class in particular"
    return [*rows, ("add images first to", weakest)]


def _weakest(estimate: LeaveOneOut) -> list[str]:
    found = [
        (each.recall.share, each)
        for each in estimate.classes
        if each.recall.share is not None and each.recall.share < 1
    ]
    return [
        f"{printable(each.label)} ({each.recall.hits} of {each.images} recognised)"
        for _, each in sorted(found, key=lambda pair: pair[0])
    ]


def _name(index: int, files: Sequence[str] = ()) -> str:
    return printable(files[index]) if index < len(files) else f"image {index}"


def _short(parts: list[str]) -> str:
    more = f" and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return ", ".join(parts[:MOST]) + more
