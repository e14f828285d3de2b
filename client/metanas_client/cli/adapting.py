"""`metanas adapt`: a folder of labelled images in, an ONNX file out."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.arguments import add_out, check_output
from metanas_client.cli.exits import OK
from metanas_client.cli.screen import Screen
from metanas_client.convert import Job
from metanas_client.errors import InvalidInput, Violation
from metanas_client.estimates import estimate_rows
from metanas_client.local import adapt_here, convert_here
from metanas_client.model import Model, cheaper
from metanas_client.resources import LARGEST_INT8_OPSET, Option, Progress, Variant
from metanas_client.support import read_folder
from metanas_client.sync import Adaptation, Client
from metanas_client.text import bare, number, percent, size
from metanas_data.suggest import whole_number

MOST_MODELS = 20
OF_SERVER = (
    *("server", "token", "tls", "ca", "cert", "key"),
    *("priority", "request_id", "detach", "reuse"),
)
"""Options that have an effect with a server only."""
CONFLICTS = (
    *(("--local", name, ", which is for a server") for name in OF_SERVER),
    *((f"--{name}", "detach", "") for name in ("pareto", "input", "opset")),
)
"""Options that exclude one another, the second by its name in the program, and why."""
FRONT = ["file", "accuracy on new images", "multiply-adds", "parameters", "size"]
Make = Callable[[Mapping[str, Option]], Model]
"""Makes a model with these options."""


def add_commands(commands: Any, environment: Mapping[str, str]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "adapt",
        help="adapt to a folder of labelled images and download the model",
        description="Adapts a checkpoint of the server to a folder with one sub-folder of images "
        "a class, and writes the adapted model as one ONNX file. With --local it needs no server.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="one sub-folder a class")
    add_out(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (0)")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds allowed on a worker")
    text = "seconds until the end, waiting included; with --pareto for each model"
    parser.add_argument("--deadline", type=float, metavar="S", help=text)
    text = "order among your waiting adaptations, 0 to 9; higher ones start first (0)"
    parser.add_argument("--priority", type=int, default=0, metavar="N", help=text)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--request-id", help="a repeated id returns the first adaptation")
    group.add_argument(
        "--pareto",
        type=whole_number(1, MOST_MODELS),
        metavar="N",
        help=f"write up to N models (1 to {MOST_MODELS}), each with at most half the multiply-adds "
        "of the one before; --out model.onnx gives model-1.onnx, model-2.onnx ...",
    )
    text = "take an earlier model of yours of the same images, options, seed and checkpoint"
    parser.add_argument("--reuse", action="store_true", help=text)
    text = "print the name of the adaptation and leave it; see metanas adaptations watch"
    parser.add_argument("--detach", action="store_true", help=text)
    shared.add_local(parser)
    shared.add_form(parser)
    shared.add_options(parser)
    shared.add_server(parser, environment)
    shared.add_json(parser)
    parser.set_defaults(run=adapt)


def adapt(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run the command."""
    _check_conflicts(arguments)
    if arguments.pareto:
        return pareto(arguments, screen)
    if arguments.detach:
        return detach(arguments, screen)
    check_output(arguments.out, force=arguments.force)
    files = [each.source or "" for each in read_folder(arguments.folder).examples]
    with _maker(arguments, screen) as make:
        model = make(shared.options(arguments))
    save(model, arguments.out, screen, files)
    return OK


def detach(arguments: argparse.Namespace, screen: Screen) -> int:
    """Start an adaptation and print its name."""
    with Client(**shared.connection(arguments)) as client:
        adaptation = _start(arguments, client, shared.options(arguments))
    if screen.as_json:
        shown = {"adaptation": adaptation.name, "labels": list(adaptation.labels)}
        screen.json({**shown, "reused": adaptation.reused})
    else:
        screen.text(adaptation.name)
    return OK


def pareto(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write several models of falling cost, and print a table of them."""
    out, count = arguments.out, arguments.pareto
    paths = [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]
    for path in paths:
        check_output(path, force=arguments.force)
    options, models = shared.options(arguments), list[Model]()
    with _maker(arguments, screen) as make:
        while len(models) < count:
            try:
                models.append(make(options))
            except InvalidInput as error:
                if not models or error.reason != "BUDGET_TOO_SMALL":
                    raise
                break
            options = cheaper(options, models[-1])
    for model, path in zip(models, paths, strict=False):
        model.save(path)
    if screen.as_json:
        made = zip(models, paths, strict=False)
        screen.json([{**describe(model), "file": str(path)} for model, path in made])
    else:
        screen.table(FRONT, [_front_row(*each) for each in zip(models, paths, strict=False)])
    return OK


def _check_conflicts(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    conflicts = [
        Violation(
            one,
            "OPTION_CONFLICT",
            f"cannot be used with --{other.replace('_', '-')}{why}; leave one of them out",
        )
        for one, other, why in CONFLICTS
        if given[one.removeprefix("--")] and given[other]
    ]
    if conflicts:
        raise InvalidInput(conflicts)
    if arguments.checkpoints is not None and not arguments.local:
        message = "needs --local as well: a server has its own checkpoints"
        raise InvalidInput.single("--checkpoints", "OPTION_CONFLICT", message)
    if arguments.precision == "int8" and arguments.opset > LARGEST_INT8_OPSET:
        message = f"must be at most {LARGEST_INT8_OPSET} with --precision int8; or choose fp16"
        raise InvalidInput.single("--opset", "OPTION_CONFLICT", message)


@contextmanager
def _maker(arguments: argparse.Namespace, screen: Screen) -> Iterator[Make]:
    """Yield the function that makes a model, in this process or through a server."""
    if arguments.local:
        yield partial(_adapt_here, arguments, screen)
        return
    with Client(**shared.connection(arguments)) as client:
        yield partial(_adapt_there, arguments, screen, client)


def _adapt_here(
    arguments: argparse.Namespace, screen: Screen, options: Mapping[str, Option]
) -> Model:
    job = Job(
        support=read_folder(arguments.folder),
        checkpoint=arguments.checkpoint,
        options=options,
        seed=arguments.seed,
        request_id="",
        timeout=arguments.timeout,
        deadline=arguments.deadline,
    )
    with screen.progress() as advance:
        model = adapt_here(
            job,
            arguments.checkpoints,
            lambda step: advance(_status(step), step.step, step.steps),
        )
    try:
        return convert_here(model, shared.form(arguments))
    except InvalidInput as error:
        message = "no file was written; run the command again with another form"
        raise also(error, message) from error


def _adapt_there(
    arguments: argparse.Namespace, screen: Screen, client: Client, options: Mapping[str, Option]
) -> Model:
    adaptation = _start(arguments, client, options)
    if adaptation.reused and not screen.as_json:
        screen.text(f"reuses {adaptation.name}")
    try:
        follow(adaptation, screen)
        model, form = adaptation.result(), shared.form(arguments)
        return model if form == Variant() else _variant_of(model, client, form)
    except KeyboardInterrupt:
        if not adaptation.reused:  # another request waits for it, too
            adaptation.cancel()
        raise


def _variant_of(model: Model, client: Client, form: Variant) -> Model:
    """Download a variant of a model; if it is refused, name the model."""
    try:
        return client.model(model.name, variant=form)
    except InvalidInput as error:
        command = f"metanas models get {bare(model.name)}"
        message = f"the model {model.name} stays on the server; `{command}` fetches it as it is"
        raise also(error, message) from error


def also(error: InvalidInput, message: str) -> InvalidInput:
    """Return an error with a sentence added to its last fault."""
    *others, last = error.violations
    return InvalidInput([*others, replace(last, message=f"{last.message}; {message}")])


def _start(
    arguments: argparse.Namespace, client: Client, options: Mapping[str, Option]
) -> Adaptation:
    return client.adapt(
        arguments.folder,
        checkpoint=arguments.checkpoint,
        seed=arguments.seed,
        options=options,
        request_id=arguments.request_id,
        timeout=arguments.timeout,
        deadline=arguments.deadline,
        priority=arguments.priority,
        reuse=arguments.reuse,
    )


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


def save(model: Model, out: Path, screen: Screen, files: Sequence[str] = ()) -> None:
    """Write the file of a model, and print the summary of its adaptation."""
    model.save(out)
    if screen.as_json:
        screen.json({**describe(model), "file": str(out)})
    else:
        show(model, out, screen, files)


def describe(model: Model) -> dict[str, object]:
    """Return a model as plain values."""
    return {
        "model": model.name or None,
        "checkpoint": model.info.checkpoint,
        "sha256": model.info.sha256,
        "size": model.info.size,
        "labels": list(model.labels),
        "genotype": model.genotype,
        "report": asdict(model.report),
    }


def show(model: Model, out: Path, screen: Screen, files: Sequence[str] = ()) -> None:
    """Print the summary of an adaptation; `files` are the names of its support images."""
    report, classes = model.report, ("classes", str(len(model.labels)))
    rows = [
        *([("model", model.name)] if model.name else []),
        ("file", f"{out} ({size(len(model.onnx))})"),
        classes,
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
        rows.insert(rows.index(classes), ("checkpoint", f"universal: {shares}"))
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
