"""`metanas predict`, `show` and `verify`: what can be done with a model file, without a server."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.exits import CHECK_FAILED, OK
from metanas_client.cli.screen import Screen, percent, size
from metanas_client.extras import needs
from metanas_client.onnx import cells

if TYPE_CHECKING:
    from metanas_client.onnx.model_file import ModelFile


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser("predict", help="classify images with a model file")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    shared.add_json(parser)
    parser.set_defaults(run=predict)

    parser = commands.add_parser("show", help="show the cells, labels and provenance of a model")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the cells into a .svg, .png or .pdf"
    )
    shared.add_json(parser)
    parser.set_defaults(run=show)

    parser = commands.add_parser(
        "verify",
        help="run a model's self-check",
        description="Runs the conformance vector that travels with a model in the ONNX Runtime of "
        "this machine, and checks that predictions do not depend on other images. "
        "Exit code 1 if a check fails.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    shared.add_json(parser)
    parser.set_defaults(run=verify)


def predict(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas predict`."""
    found = _open(arguments.model).predict(arguments.images)
    named = list(zip(map(str, arguments.images), found, strict=True))
    if screen.as_json:
        screen.json([{"image": name, **asdict(prediction)} for name, prediction in named])
    else:
        rows = [(name, one.label, percent(one.confidence)) for name, one in named]
        screen.table(("image", "class", "confidence"), rows)
    return OK


def show(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas show`."""
    model = _open(arguments.model)
    if arguments.picture is not None:
        with needs("plot"):
            from metanas_client.figures import draw_cells
        draw_cells(model.cells, arguments.picture)
    if screen.as_json:
        picture = None if arguments.picture is None else str(arguments.picture)
        screen.json({**_describe(model), "picture": picture})
        return OK
    for cell in model.cells:
        columns = ("", "first edge", "second edge")
        screen.table(columns, cells.table(cell), f"{cell.kind} cell")
    facts = [("classes", ", ".join(model.labels)), ("file", size(model.size))]
    screen.facts([*facts, *model.provenance.items()])
    if arguments.picture is not None:
        screen.text(f"drawn into {arguments.picture}")
    return OK


def verify(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas verify`."""
    checks = _open(arguments.model).check()
    if screen.as_json:
        passed = all(check.passed for check in checks)
        screen.json({"passed": passed, "checks": [asdict(check) for check in checks]})
    else:
        rows = [(one.name, "ok" if one.passed else "FAILED", one.detail) for one in checks]
        screen.table(("check", "", "found"), rows)
    return OK if all(check.passed for check in checks) else CHECK_FAILED


def _open(path: Path) -> "ModelFile":
    with needs("onnx"):
        from metanas_client.onnx.model_file import ModelFile
    return ModelFile.load(path)


def _describe(model: "ModelFile") -> dict[str, object]:
    return {
        "labels": list(model.labels),
        "channels": model.channels,
        "size": model.size,
        "genotype": json.loads(model.metadata["genotype"]),
        "provenance": model.provenance,
    }
