"""Parts of the page: the table of classes, the confusion matrix and the reliability diagram.

All functions return HTML whose names and numbers are escaped.
"""

import math
from collections.abc import Sequence
from html import escape

from metanas_client.text import percent, printable
from metanas_data.intervals import Proportion
from metanas_data.metrics import Metrics, ReliabilityBin

SIDE = 300
"""Side of the reliability diagram in its own units."""
LONGEST_HEAD = 4
"""Most characters of a label at the head of a column."""
LARGEST_DOT, SMALLEST_DOT = 13.0, 3.0


def safe(text: str) -> str:
    """Return text for HTML, without control characters."""
    return escape(printable(text))


def interval(one: Proportion) -> str:
    """Return the interval of a proportion as text."""
    return f"{100 * one.low:.1f} to {100 * one.high:.1f} %"


def class_table(metrics: Metrics) -> str:
    """Return the rows of recall and precision, the weakest class first."""
    taken: dict[str, list[str]] = {}
    for one in metrics.mistakes():
        taken.setdefault(one.label, []).append(f"{safe(one.predicted)} ({one.images})")
    rows = [
        f'<tr><th scope="row">{safe(one.label)}</th><td class="number">{one.images}</td>'
        f'<td class="share">{_bar(one.recall)}</td><td class="share">{_bar(one.precision)}</td>'
        f"<td>{', '.join(taken.get(one.label, [])[:3])}</td></tr>"
        for one in sorted(
            metrics.classes, key=lambda one: (one.recall.share is None, one.recall.low)
        )
    ]
    return _table(("class", "images", "recall", "precision", "taken for"), rows, "classes")


def confusion_matrix(metrics: Metrics) -> str:
    """Return the matrix: rows are true classes, columns are predicted ones.

    Columns have numbers if a label is longer than `LONGEST_HEAD`.
    """
    names = [safe(one.label) for one in metrics.classes]
    short = all(len(one.label) <= LONGEST_HEAD for one in metrics.classes)
    heads = names if short else [_number(place, name) for place, name in enumerate(names, 1)]
    rows = []
    for index, counts in enumerate(metrics.confusion):
        cells = "".join(
            _cell(count, sum(counts), correct=index == column)
            for column, count in enumerate(counts)
        )
        number = "" if short else f"<b>{index + 1}</b> "
        rows.append(f'<tr><th scope="row">{number}{names[index]}</th>{cells}</tr>')
    return _table(("true class", *heads), rows, "confusion")


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> str:
    """Return an SVG: a dot for each bin, its area by the number of images in it."""
    most = max(one.images for one in bins)
    ticks = "".join(
        f'<text x="{SIDE * share}" y="{SIDE + 18}">{100 * share:.0f}</text>'
        f'<text x="-8" y="{SIDE * (1 - share) + 4}" class="left">{100 * share:.0f}</text>'
        f'<path d="M0 {SIDE * (1 - share)}H{SIDE}M{SIDE * share} 0V{SIDE}" class="grid"/>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    dots = "".join(_dot(one, most) for one in bins)
    return (
        f'<svg class="reliability" viewBox="-52 -14 {SIDE + 68} {SIDE + 62}" role="img" '
        f'aria-label="accuracy by confidence">{ticks}'
        f'<path d="M0 {SIDE}L{SIDE} 0" class="ideal"/>{dots}'
        f'<text x="{SIDE / 2}" y="{SIDE + 42}">confidence in %</text>'
        f'<text x="{-SIDE / 2}" y="-38" transform="rotate(-90)">accuracy in %</text></svg>'
    )


def _table(heads: Sequence[str], rows: Sequence[str], kind: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join(rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(place: int, name: str) -> str:
    return f'<abbr title="{name}">{place}</abbr>'


def _bar(one: Proportion) -> str:
    """Return a share with its interval as a band."""
    if one.share is None:
        return '<span class="quiet">–</span>'
    place = f"--low:{one.low:.3f};--high:{one.high:.3f};--share:{one.share:.3f}"
    return (
        f'<span class="bar" style="{place}" title="{interval(one)}"></span>'
        f'<span class="number">{percent(one.share)}</span>'
    )


def _cell(count: int, images: int, *, correct: bool) -> str:
    if not count:
        return "<td></td>"
    # as an inline style, notebooks show it too; half transparent, it suits light and dark
    colour, opacity = ("37 99 201", 0.1) if correct else ("217 90 20", 0.2)
    opacity += 0.4 * count / images
    return f'<td style="background:rgb({colour}/{opacity:.2f})">{count}</td>'


def _dot(one: ReliabilityBin, most: int) -> str:
    if one.confidence is None or one.accuracy is None:
        return ""
    radius = max(SMALLEST_DOT, LARGEST_DOT * math.sqrt(one.images / most))
    text = (
        f"{one.images} images, confidence {percent(one.confidence)}, "
        f"accuracy {percent(one.accuracy)}"
    )
    x, y = SIDE * one.confidence, SIDE * (1 - one.accuracy)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{text}</title></circle>'
