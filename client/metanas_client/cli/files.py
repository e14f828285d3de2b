"""`metanas predict`, `show` and `verify`: commands on a model file, without a server."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.arguments import add_force, check_output
from metanas_client.cli.exits import BAD_INPUT, CHECK_FAILED, OK
from metanas_client.cli.screen import Screen
from metanas_client.errors import InvalidInput, Violation
from metanas_client.extras import needs
from metanas_client.onnx import cells
from metanas_client.support import unreadable
from metanas_client.text import NO_VALUE, percent, size
from metanas_data.folders import is_litter, visible

if TYPE_CHECKING:
    from metanas_client.onnx.model_file import Check, ModelFile, Prediction


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser(
        "predict",
        help="classify images with a model file",
        description="Classifies images one after the other, so that memory does not grow with "
        "their number. An image that cannot be read is listed, the others are classified all the "
        "same, and the exit code is 2.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern such as '*.jpg'"
    )
    parser.add_argument(
        "--csv", action="store_true", help="print CSV with the probabilities of all classes"
    )
    shared.add_json(parser)
    parser.set_defaults(run=predict)

    parser = commands.add_parser("show", help="show the cells, labels and provenance of a model")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the cells into a .svg, .png or .pdf"
    )
    add_force(parser)
    shared.add_json(parser)
    parser.set_defaults(run=show)

    parser = commands.add_parser(
        "verify",
        help="run a model's self-check",
        description="Compares the conformance vector in a model with the ONNX Runtime of this "
        "machine, and checks that predictions do not depend on other images. "
        "With --key it first checks that the owner of the key signed exactly this file. "
        "Exit code 1 if a check fails.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--key", type=Path, metavar="PEM", help="public key of the signer")
    text = "with --key: its signature (MODEL.onnx.intoto.jsonl)"
    parser.add_argument("--signature", type=Path, metavar="FILE", help=text)
    shared.add_json(parser)
    parser.set_defaults(run=verify)


def predict(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas predict`."""
    model = _open(arguments.model)
    paths = list(image_files(arguments.images))
    if not paths:
        names = ", ".join(arguments.images)
        raise InvalidInput.single("images", "NO_IMAGES", f"there is no image in {names}")
    if arguments.csv and not screen.as_json:
        failed = _stream_csv(model, paths)
    else:
        failed = _show_predictions(model, paths, screen)
    if failed and not screen.as_json:
        lines = [f"{violation.source}: {violation.message}" for violation in failed]
        screen.complaint("\n".join([f"{len(failed)} of {len(paths)} images failed:", *lines]))
    return BAD_INPUT if failed else OK


def image_files(names: Iterable[str]) -> Iterator[Path]:
    """Yield the files that names stand for, each once: files, folders with all below, patterns."""
    seen: set[Path] = set()
    for name in names:
        for path in _places(name):
            # Path.is_dir fails for a name that is too long
            for file in _files_below(path) if os.path.isdir(path) else [path]:
                if file not in seen:
                    yield file
                seen.add(file)


def classify(
    model: "ModelFile", paths: Iterable[Path]
) -> "Iterator[tuple[str, Prediction | Violation]]":
    """Classify images one at a time; yield a prediction, or the fault of an image, for each."""
    for path in paths:
        try:
            [prediction] = model.predict([path])
        except InvalidInput as error:
            first = error.violations[0]
            yield str(path), Violation("images", first.reason, first.message, str(path))
        else:
            yield str(path), prediction


def _stream_csv(model: "ModelFile", paths: Iterable[Path]) -> list[Violation]:
    """Print each row as soon as it is known; return the images that failed."""
    failed: list[Violation] = []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "confidence", "known", *model.labels])
    for name, one in classify(model, paths):
        if isinstance(one, Violation):
            failed.append(one)
        else:
            writer.writerow(
                [name, one.label, one.confidence, one.known, *one.probabilities.values()]
            )
            sys.stdout.flush()  # what has been answered is kept if the program is killed
    return failed


def _show_predictions(model: "ModelFile", paths: Sequence[Path], screen: Screen) -> list[Violation]:
    """Print all predictions as a table or as JSON; return the images that failed."""
    good: list[tuple[str, Prediction]] = []
    failed: list[Violation] = []
    with screen.progress() as advance:
        for name, one in classify(model, paths):
            if isinstance(one, Violation):
                failed.append(one)
            else:
                good.append((name, one))
            advance("images", len(good) + len(failed), len(paths))
    if screen.as_json:
        errors = [
            {"image": v.source, "error": {"reason": v.reason, "message": v.message}} for v in failed
        ]
        screen.json([*({"image": name, **asdict(one)} for name, one in good), *errors])
    elif good:
        rows = [(name, *answer_of(one)) for name, one in good]
        screen.table(("image", "class", "confidence"), rows)
    return failed


def answer_of(one: "Prediction") -> tuple[str, str]:
    """Return the class and its confidence, which only an image of one of the classes has."""
    if one.known < 0.5:
        return f"none of these (nearest: {one.label})", NO_VALUE
    return one.label, percent(one.confidence)


def show(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas show`."""
    model = _open(arguments.model)
    if arguments.picture is not None:
        with needs("plot"):
            from metanas_client.figures import draw_cells
        check_output(arguments.picture, force=arguments.force)
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
    checks = [*_check_signature(arguments), *_open(arguments.model).check()]
    if screen.as_json:
        passed = all(check.passed for check in checks)
        screen.json({"passed": passed, "checks": [asdict(check) for check in checks]})
    else:
        rows = [(one.name, "ok" if one.passed else "FAILED", one.detail) for one in checks]
        screen.table(("check", "", "found"), rows)
    return OK if all(check.passed for check in checks) else CHECK_FAILED


def _check_signature(arguments: argparse.Namespace) -> "list[Check]":
    """Check the signature before the file is loaded; without a key there is nothing to check."""
    if arguments.key is None:
        if arguments.signature is not None:
            raise InvalidInput.single("--signature", "OPTION_CONFLICT", "needs --key as well")
        return []
    with needs("onnx"):
        from metanas_client.onnx.model_file import Check, read_model
    from metanas_client.publish.signature import SUFFIX
    from metanas_client.publish.signature import verify as verify_signature

    path: Path = arguments.model
    envelope = arguments.signature or path.with_name(path.name + SUFFIX)
    verify_signature(read_model(path), envelope, arguments.key)
    return [Check(name="signature", passed=True, detail=f"by the key in {arguments.key}")]


def _places(name: str) -> list[Path]:
    """Return the files and folders that match a pattern, or the name itself."""
    if os.path.exists(name) or not (matches := sorted(glob(name, recursive=True))):
        return [Path(name)]
    return [path for path in map(Path, matches) if not is_litter(path.name)]


def _files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the files in a folder and below it. Links to folders above are not followed."""
    place = folder.resolve()
    if place in above:
        return
    try:
        entries = visible(folder)
    except OSError as error:
        raise InvalidInput([unreadable("images", folder, error)]) from error
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(entry, above | {place})
        elif entry.is_file() or not entry.exists():  # a pipe would block; a dead link is reported
            yield entry


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
