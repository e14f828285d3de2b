"""HTML page of a test: one file with its style and its thumbnails, which loads nothing."""

from collections.abc import Sequence
from importlib.resources import files
from string import Template

from metanas_client.errors import Violation
from metanas_client.quality.answers import Answer
from metanas_client.quality.charts import (
    class_table,
    confusion_matrix,
    interval,
    reliability_diagram,
    safe,
)
from metanas_client.quality.pictures import thumbnail
from metanas_client.text import percent
from metanas_data.metrics import BINS, Metrics


def page(
    title: str,
    metrics: Metrics,
    wrong: Sequence[Answer],
    unsure: Sequence[Answer],
    failed: Sequence[Violation],
) -> str:
    """Return the page as text.

    Args:
        title: the name of the model.
        metrics: the metrics of all images.
        wrong: the wrong images to show.
        unsure: correct images to show.
        failed: the images that could not be read.

    Raises:
        ClientError: an image to show cannot be read any more.
    """
    template = files("metanas_client.quality").joinpath("page.html").read_text("utf-8")
    images = metrics.accuracy.count
    mistakes = images - metrics.accuracy.hits
    few = f" The {len(wrong)} of the highest confidence are shown." if len(wrong) < mistakes else ""
    return Template(template).substitute(
        title=safe(title),
        subtitle=f"Test of {len(metrics.classes)} classes on {images} held-out images",
        figures="".join(
            f"<div><dt>{name}</dt><dd>{value}<small>{about}</small></dd></div>"
            for name, value, about in _figures(metrics)
        ),
        verdict=_verdict(metrics),
        classes=class_table(metrics),
        confusion=confusion_matrix(metrics),
        reliability=reliability_diagram(metrics.reliability),
        galleries=_gallery(
            "Wrong images",
            "The most confident mistakes come first. Some may have a wrong label." + few,
            wrong,
        )
        + _gallery(
            "Least certain correct images", "The model was right, with little confidence.", unsure
        ),
        failed=_failed(failed),
    )


def fragment(metrics: Metrics) -> str:
    """Return the figures and the confusion matrix without style, for a notebook."""
    rows = "".join(
        f"<tr><td>{name}</td><td>{value}</td><td>{about}</td></tr>"
        for name, value, about in _figures(metrics)
    )
    return f"<table>{rows}</table>{confusion_matrix(metrics)}"


def _figures(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Return the figures to read first: name, value and remark."""
    accuracy = metrics.accuracy
    mistakes = accuracy.count - accuracy.hits
    return [
        ("accuracy", percent(accuracy.share), f"95 % interval {interval(accuracy)}"),
        ("wrong images", f"{mistakes}", f"of {accuracy.count}"),
        ("mean confidence", percent(metrics.confidence), "of the predicted class"),
        ("calibration error", percent(metrics.calibration_error), f"expected, {BINS} bins"),
    ]


def _verdict(metrics: Metrics) -> str:
    """Return a sentence about the confidence."""
    accuracy = metrics.accuracy
    if metrics.confidence > accuracy.high:
        return "The model is too sure: its confidence lies above the interval of its accuracy."
    if metrics.confidence < accuracy.low:
        return "The model is not sure enough: its confidence lies below the interval."
    return "The mean confidence lies within the interval of the accuracy."


def _gallery(title: str, about: str, answers: Sequence[Answer]) -> str:
    if not answers:
        return ""
    items = "".join(map(_item, answers))
    return f'<h2>{title}</h2><p>{about}</p><ul class="images">{items}</ul>'


def _item(answer: Answer) -> str:
    kind = "right" if answer.correct else "wrong"
    truth = "" if answer.correct else f"true: <b>{safe(answer.label)}</b><br>"
    prediction = safe(answer.predicted)
    return (
        f'<li><img src="{thumbnail(answer)}" alt="">{truth}'
        f'<span class="{kind}">predicted: <b>{prediction}</b> {percent(answer.confidence)}</span>'
        f'<br><span class="quiet">{safe(answer.source)}</span></li>'
    )


def _failed(failed: Sequence[Violation]) -> str:
    if not failed:
        return ""
    items = "".join(
        f"<li>{safe(one.source or one.field)}: {safe(one.message)}</li>" for one in failed
    )
    return f"<h2>Images that cannot be read</h2><p>They do not count above.</p><ul>{items}</ul>"
