"""`metanas adapt`: a folder of labelled images in, an ONNX file out."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.exits import OK
from metanas_client.cli.output import add_force, check_output
from metanas_client.cli.screen import Screen
from metanas_client.estimates import estimate_rows
from metanas_client.model import Model
from metanas_client.resources import Progress
from metanas_client.support import read_folder
from metanas_client.sync import Adaptation, Client
from metanas_client.text import number, percent, size

MOST_MODELS = 20
FRONT = ["file", "accuracy on new images", "multiply-adds", "parameters", "size"]


def add_commands(commands: Any, environment: Mapping[str, str]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "adapt",
        help="adapt to a folder of labelled images and download the model",
        description="Adapts a checkpoint of the server to a folder with one sub-folder of images "
        "a class, and writes the adapted model as one ONNX file.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="one sub-folder a class")
    parser.add_argument(
        "--out", type=Path, default=Path("model.onnx"), help="file to write (model.onnx)"
    )
    add_force(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (0)")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds allowed on a worker")
    text = "seconds until the end, waiting included; with --pareto for each model"
    parser.add_argument("--deadline", type=float, metavar="S", help=text)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--request-id", help="a repeated id returns the first adaptation")
    group.add_argument(
        "--pareto",
        type=int,
        choices=range(1, MOST_MODELS + 1),
        metavar="N",
        help=f"write up to N models (1 to {MOST_MODELS}), each with at most half the multiply-adds "
        "of the one before; --out model.onnx gives model-1.onnx, model-2.onnx ...",
    )
    shared.add_options(parser)
    shared.add_server(parser, environment)
    shared.add_json(parser)
    parser.set_defaults(run=adapt)


def adapt(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run the command."""
    if arguments.pareto:
        return pareto(arguments, screen)
    check_output(arguments.out, force=arguments.force)
    files = [each.source or "" for each in read_folder(arguments.folder).examples]
    with Client(**shared.connection(arguments)) as client:
        adaptation = client.adapt(
            arguments.folder,
            checkpoint=arguments.checkpoint,
            seed=arguments.seed,
            options=shared.options(arguments),
            request_id=arguments.request_id,
            timeout=arguments.timeout,
            deadline=arguments.deadline,
        )
        try:
            follow(adaptation, screen)
            model = adaptation.result()
        except KeyboardInterrupt:
            adaptation.cancel()
            raise
    model.save(arguments.out)
    if screen.as_json:
        screen.json({**describe(model), "file": str(arguments.out)})
    else:
        show(model, arguments.out, screen, files)
    return OK


def pareto(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write several models of falling cost, and print a table of them."""
    out, count = arguments.out, arguments.pareto
    paths = [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]
    for path in paths:
        check_output(path, force=arguments.force)
    with Client(**shared.connection(arguments)) as client:
        models = client.pareto(
            arguments.folder,
            count,
            checkpoint=arguments.checkpoint,
            seed=arguments.seed,
            options=shared.options(arguments),
            timeout=arguments.timeout,
            deadline=arguments.deadline,
        )
    for model, path in zip(models, paths, strict=False):
        model.save(path)
    if screen.as_json:
        made = zip(models, paths, strict=False)
        screen.json([{**describe(model), "file": str(path)} for model, path in made])
    else:
        screen.table(FRONT, [_front_row(*each) for each in zip(models, paths, strict=False)])
    return OK


def _front_row(model: Model, path: Path) -> list[str]:
    report, estimate = model.report, model.report.leave_one_out
    return [
        str(path),
        percent(None if estimate is None else estimate.accuracy),
        number(report.macs),
        number(report.parameters),
        size(report.onnx_bytes),
    ]


def follow(adaptation: Adaptation, screen: Screen) -> None:
    """Show progress until the adaptation has ended."""
    with screen.progress() as advance:
        for step in adaptation.progress():
            advance(_status(step), step.step, step.steps)


def describe(model: Model) -> dict[str, object]:
    """Return a model as plain values."""
    return {
        "model": model.name,
        "checkpoint": model.info.checkpoint,
        "sha256": model.info.sha256,
        "size": model.info.size,
        "labels": list(model.labels),
        "genotype": model.genotype,
        "report": asdict(model.report),
    }


def show(model: Model, out: Path, screen: Screen, files: Sequence[str] = ()) -> None:
    """Print the summary of an adaptation; `files` are the names of its support images."""
    report = model.report
    rows = [
        ("model", model.name),
        ("file", f"{out} ({size(len(model.onnx))})"),
        ("classes", str(len(model.labels))),
        *estimate_rows(report.leave_one_out, files),
        ("accuracy on training views", percent(report.accuracy)),
    ]
    if report.steps or report.tuning_steps:
        rows += [
            ("the same with the soft supernet", percent(report.accuracy_soft)),
            ("the same right after pruning", percent(report.accuracy_pruned)),
            ("edges that differ from the checkpoint's", number(report.meta_genotype_distance)),
        ]
    rows += [
        ("parameters", number(report.parameters)),
        ("multiply-adds an image", number(report.macs)),
    ]
    if report.architecture:
        shares = ", ".join(
            f"{name} {100 * share:.0f} %" for name, share in report.architecture.items()
        )
        rows.insert(1, ("checkpoint", f"universal: {shares}"))
    if report.over_budget:
        rows.append(("share left out for the budget", percent(report.over_budget)))
    if report.seconds:
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in report.seconds.items())
        rows.append(("seconds", f"{sum(report.seconds.values()):.2f} ({stages})"))
    screen.facts(rows)


def _status(step: Progress) -> str:
    again = f" (attempt {step.attempt})" if step.attempt > 1 else ""
    loss = "" if step.loss is None else f"  loss {step.loss:.3f}"
    accuracy = "" if step.accuracy is None else f"  accuracy {100 * step.accuracy:.0f} %"
    return f"{step.stage}{again}{loss}{accuracy}"
