"""`metanas test`: a model file on held-out images, without a server."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.arguments import add_force, check_output
from metanas_client.cli.exits import BAD_INPUT, OK
from metanas_client.cli.screen import Screen
from metanas_client.errors import NotWritable
from metanas_client.extras import needs
from metanas_client.text import number, percent
from metanas_data.suggest import whole_number

if TYPE_CHECKING:
    from metanas_client.quality.quality import Quality
    from metanas_data.intervals import Proportion
    from metanas_data.metrics import Metrics

MISTAKES = 100
MATRIX_CLASSES = 12
"""Most classes of a confusion matrix at a terminal, and most confusions in its place. The page and
the JSON have larger matrices."""


def add_commands(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "test",
        help="measure a model file on held-out images",
        description="Classifies the images of class folders that the model has not seen. Shows "
        "accuracy, recall and precision of each class, the confusions, the wrong images, and "
        "whether the confidence can be trusted. An image that cannot be read is listed, the "
        "others are classified all the same, and the exit code is 2.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx")
    add("folder", type=Path, metavar="FOLDER", help="one sub-folder of images for each class")
    add("--html", type=Path, metavar="FILE", help="write a page with all figures and thumbnails")
    add("--sheet", type=Path, metavar="FILE.png", help="write a picture of the wrong images")
    add(
        "--mistakes",
        type=whole_number(0),
        default=MISTAKES,
        metavar="N",
        help=f"most wrong images to show, the most confident first ({MISTAKES})",
    )
    add_force(parser)
    shared.add_json(parser)
    parser.set_defaults(run=test)


def test(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run the command."""
    if arguments.sheet is not None and arguments.sheet.suffix.lower() != ".png":
        message = f"the name of a contact sheet ends in .png, unlike {arguments.sheet}"
        raise NotWritable("PICTURE_FORMAT", message)
    for path in (arguments.html, arguments.sheet):
        if path is not None:
            check_output(path, force=arguments.force)
    quality = _measure(arguments, screen)
    if arguments.html is not None:
        quality.save_html(arguments.html, mistakes=arguments.mistakes)
    if arguments.sheet is not None:
        quality.save_sheet(arguments.sheet, mistakes=arguments.mistakes)
    if screen.as_json:
        screen.json(_document(quality))
    else:
        _show(quality, arguments.mistakes, screen)
    return BAD_INPUT if quality.failed else OK


def _measure(arguments: argparse.Namespace, screen: Screen) -> "Quality":
    with needs("onnx"):
        from metanas_client.onnx.model_file import ModelFile
        from metanas_client.quality.quality import measure_quality
    model = ModelFile.load(arguments.model)
    with screen.progress() as advance:
        return measure_quality(
            model,
            arguments.model.name,
            arguments.folder,
            lambda done, total: advance("images", done, total),
        )


def _document(quality: "Quality") -> dict[str, object]:
    return {
        "model": quality.model,
        "metrics": asdict(quality.metrics),
        "images": [
            {
                "image": one.source,
                "class": one.label,
                "predicted": one.predicted,
                "confidence": one.confidence,
            }
            for one in quality.answers
        ],
        "failed": [
            {"image": one.source, "error": {"reason": one.reason, "message": one.message}}
            for one in quality.failed
        ],
    }


def _show(quality: "Quality", mistakes: int, screen: Screen) -> None:
    metrics, wrong = quality.metrics, quality.wrong
    accuracy = metrics.accuracy
    screen.facts(
        [
            ("accuracy", percent(accuracy.share)),
            ("95 % interval", f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %"),
            ("correct", f"{accuracy.hits} of {accuracy.count} images"),
            ("mean confidence", percent(metrics.confidence)),
            ("calibration error", f"{percent(metrics.calibration_error)} (15 bins)"),
        ]
    )
    rows = [
        (one.label, number(one.images), _share(one.recall), _share(one.precision))
        for one in metrics.classes
    ]
    columns = ("class", "images", "recall", "precision")
    screen.table(columns, rows, "classes, with 95 % intervals")
    _show_confusion(metrics, screen)
    if wrong:
        lines = [
            (one.source, one.label, one.predicted, percent(one.confidence))
            for one in wrong[:mistakes]
        ]
        title = f"wrong images, {len(lines)} of {len(wrong)}"
        screen.table(("image", "class", "predicted", "confidence"), lines, title)
    if quality.failed:
        count = len(quality.failed) + len(quality.answers)
        lines_of_failed = [f"{one.source}: {one.message}" for one in quality.failed]
        title = f"{len(quality.failed)} of {count} images failed:"
        screen.complaint("\n".join([title, *lines_of_failed]))


def _show_confusion(metrics: "Metrics", screen: Screen) -> None:
    """Print the matrix, or the most frequent confusions if it would be too wide."""
    labels = [one.label for one in metrics.classes]
    if len(labels) <= MATRIX_CLASSES:
        rows = [
            (label, *map(str, counts))
            for label, counts in zip(labels, metrics.confusion, strict=True)
        ]
        screen.table(("true class", *labels), rows, "confusion: a column for each predicted class")
    elif pairs := metrics.mistakes()[:MATRIX_CLASSES]:
        rows = [(one.label, one.predicted, str(one.images)) for one in pairs]
        screen.table(("true class", "predicted", "images"), rows, "most frequent confusions")


def _share(one: "Proportion") -> str:
    if one.share is None:
        return percent(None)
    return f"{percent(one.share)} ({100 * one.low:.1f} to {100 * one.high:.1f})"
