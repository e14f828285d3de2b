"""`metanas checkpoints`, `adaptations` and `models`: what a server has."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any

from metanas_client.cli import arguments as shared
from metanas_client.cli import publishing
from metanas_client.cli.adapting import follow, save
from metanas_client.cli.arguments import add_out, check_output
from metanas_client.cli.exits import OK
from metanas_client.cli.screen import Screen
from metanas_client.resources import AdaptationInfo, Checkpoint, ModelInfo, State
from metanas_client.sync import Client
from metanas_client.text import bare, number, size
from metanas_data.suggest import whole_number

EVERYBODY = "*"
"""The name that stands for all callers of a server."""
MODEL_COLUMNS = (
    *("name", "made (UTC)", "checkpoint", "classes", "size"),
    *("owner", "pinned", "shared with"),
)


def add_commands(commands: Any, environment: Mapping[str, str]) -> None:
    """Declare the commands."""
    parser = commands.add_parser("checkpoints", help="list the checkpoints of the server")
    _finish(parser, environment, checkpoints)
    _add_adaptations(commands, environment)

    models = commands.add_parser("models", help="list, download, share, delete and publish models")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser("list", help="list the models, the latest first")
    _add_limit(parser)
    text = "list the models that other callers share with you instead"
    parser.add_argument("--shared", action="store_true", help=text)
    _finish(parser, environment, list_models)
    parser = actions.add_parser("get", help="download a model")
    parser.add_argument("name", metavar="NAME")
    add_out(parser)
    parser.add_argument(
        "--precision", choices=("fp16",), default="", help="fp16: weights in half of the bytes"
    )
    shared.add_form(parser)
    _finish(parser, environment, get_model)
    parser = actions.add_parser("delete", help="delete models")
    parser.add_argument("names", nargs="+", metavar="NAME")
    _finish(parser, environment, delete_models)
    _add_changes(actions, environment)
    publishing.add_actions(actions, environment)


def _add_changes(actions: Any, environment: Mapping[str, str]) -> None:
    """Declare the commands that share and pin models."""
    words = {True: "let other callers read a model", False: "let callers no longer read a model"}
    for share, text in words.items():
        parser = actions.add_parser("share" if share else "unshare", help=text)
        parser.add_argument("name", metavar="NAME")
        group = parser.add_mutually_exclusive_group(required=share)
        rest = "names of their tokens" + ("" if share else " (default: end all sharing)")
        group.add_argument(
            "--with", dest="callers", nargs="+", default=[], metavar="CALLER", help=rest
        )
        group.add_argument(
            "--with-everybody",
            dest="callers",
            action="store_const",
            const=[EVERYBODY],
            help="all callers of the server",
        )
        _finish(parser, environment, share_model if share else unshare_model)
    words = {True: "keep models when the server deletes unused ones", False: "unpin models"}
    for pin, text in words.items():
        parser = actions.add_parser("pin" if pin else "unpin", help=text)
        parser.add_argument("names", nargs="+", metavar="NAME")
        _finish(parser, environment, pin_models if pin else unpin_models)


def _add_adaptations(commands: Any, environment: Mapping[str, str]) -> None:
    adaptations = commands.add_parser("adaptations", help="list, watch and cancel adaptations")
    actions = adaptations.add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser("list", help="list the adaptations, the latest first")
    _add_limit(parser)
    _finish(parser, environment, list_adaptations)
    parser = actions.add_parser(
        "watch",
        help="follow an adaptation to its end and download the model",
        description="Follows an adaptation to its end and downloads the model, also one that has "
        "ended. Ctrl-C stops watching; the adaptation continues.",
    )
    parser.add_argument("name", metavar="NAME")
    add_out(parser)
    _finish(parser, environment, watch_adaptation)
    parser = actions.add_parser("cancel", help="cancel adaptations")
    parser.add_argument("names", nargs="+", metavar="NAME")
    _finish(parser, environment, cancel_adaptations)


def checkpoints(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas checkpoints`."""
    with Client(**shared.connection(arguments)) as client:
        available = client.checkpoints()
    if screen.as_json:
        screen.json([checkpoint.to_dict() for checkpoint in available])
    else:
        columns = ("name", "input", "cells", "parameters", "description")
        screen.table(columns, [_checkpoint_row(checkpoint) for checkpoint in available])
    return OK


def list_adaptations(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas adaptations list`."""
    with Client(**shared.connection(arguments)) as client:
        adaptations = list(islice(client.adaptations(), arguments.limit))
    if screen.as_json:
        screen.json([_adaptation_dict(each) for each in adaptations])
    else:
        columns = ("name", "state", "made (UTC)", "checkpoint", "classes", "images")
        screen.table(columns, [_adaptation_row(each) for each in adaptations])
    return OK


def watch_adaptation(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas adaptations watch`."""
    check_output(arguments.out, force=arguments.force)
    with Client(**shared.connection(arguments)) as client:
        adaptation = client.adaptation(arguments.name)
        follow(adaptation, screen)
        save(adaptation.result(), arguments.out, screen)
    return OK


def cancel_adaptations(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas adaptations cancel`."""
    with Client(**shared.connection(arguments)) as client:
        cancelled = [client.adaptation(name) for name in arguments.names]
        for each in cancelled:
            each.cancel()
        for each in cancelled:  # a worker finishes its present step
            follow(each, screen)
        ended = [each.info() for each in cancelled]
    if screen.as_json:
        screen.json([_adaptation_dict(each) for each in ended])
    else:
        screen.table(("name", "state"), [(bare(each.name), each.state.value) for each in ended])
    return OK


def list_models(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models list`."""
    with Client(**shared.connection(arguments)) as client:
        models = list(islice(client.models(shared=arguments.shared), arguments.limit))
    if screen.as_json:
        screen.json([_model_dict(model) for model in models])
    else:
        screen.table(MODEL_COLUMNS, [_model_row(model) for model in models])
    return OK


def get_model(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models get`."""
    check_output(arguments.out, force=arguments.force)
    with Client(**shared.connection(arguments)) as client:
        variant = shared.form(arguments, arguments.precision)
        model = client.model(arguments.name, variant=variant)
    save(model, arguments.out, screen)
    return OK


def delete_models(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models delete`."""
    deleted = list[str]()
    try:
        with Client(**shared.connection(arguments)) as client:
            for name in arguments.names:
                client.delete_model(name)
                deleted.append(name)
    finally:
        _show_deleted(deleted, screen)
    return OK


def _show_deleted(names: Sequence[str], screen: Screen) -> None:
    """Print the models that were deleted, also before an error."""
    if names and screen.as_json:
        screen.json({"deleted": names})
    elif names:
        screen.text(f"deleted {', '.join(names)}")


def share_model(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models share`."""
    with Client(**shared.connection(arguments)) as client:
        model = client.update_model(arguments.name, share_with=arguments.callers)
    return _show_changed([model], screen)


def unshare_model(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models unshare`."""
    with Client(**shared.connection(arguments)) as client:
        model = client.update_model(arguments.name, unshare=arguments.callers)
        if not arguments.callers:
            model = client.update_model(arguments.name, unshare=model.shared_with)
    return _show_changed([model], screen)


def pin_models(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models pin`."""
    return _set_pins(arguments, screen, pinned=True)


def unpin_models(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models unpin`."""
    return _set_pins(arguments, screen, pinned=False)


def _set_pins(arguments: argparse.Namespace, screen: Screen, *, pinned: bool) -> int:
    models = list[ModelInfo]()
    try:
        with Client(**shared.connection(arguments)) as client:
            models += (client.update_model(name, pinned=pinned) for name in arguments.names)
    finally:
        _show_changed(models, screen)
    return OK


def _show_changed(models: Sequence[ModelInfo], screen: Screen) -> int:
    """Print the settings of models that have changed, also before an error."""
    if models and screen.as_json:
        screen.json([_model_dict(model) for model in models])
    elif models:
        rows = [(model.name, *_settings(model)) for model in models]
        screen.table(("name", "pinned", "shared with"), rows)
    return OK


def _finish(parser: argparse.ArgumentParser, environment: Mapping[str, str], run: object) -> None:
    shared.add_server(parser, environment)
    shared.add_json(parser)
    parser.set_defaults(run=run)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=whole_number(1), metavar="N", help="most lines")


def _checkpoint_row(checkpoint: Checkpoint) -> tuple[str, ...]:
    side, colours = checkpoint.input.size, {1: "grey", 3: "RGB"}
    return (
        checkpoint.name,
        f"{side}×{side} {colours.get(checkpoint.input.channels, '')}",
        str(checkpoint.cells),
        number(checkpoint.parameters),
        checkpoint.description,
    )


def _model_row(model: ModelInfo) -> tuple[str, ...]:
    return (
        bare(model.name),
        _time(model.create_time),
        bare(model.checkpoint),
        str(len(model.labels)),
        size(model.size),
        model.owner,
        *_settings(model),
    )


def _settings(model: ModelInfo) -> tuple[str, str]:
    everybody = "everybody" if EVERYBODY in model.shared_with else ""
    names = [name for name in model.shared_with if name != EVERYBODY]
    return "yes" if model.pinned else "", ", ".join(filter(None, (everybody, *names)))


def _adaptation_row(info: AdaptationInfo) -> tuple[str, ...]:
    failure = ""
    if info.state is State.FAILED and info.fault is not None:
        failure = f": {info.fault.reason}"
    return (
        bare(info.name),
        info.state.value + failure,
        _time(info.create_time),
        bare(info.checkpoint),
        str(len(info.labels)),
        str(info.examples),
    )


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _adaptation_dict(info: AdaptationInfo) -> dict[str, object]:
    return {
        **asdict(info),
        "state": info.state.value,
        "create_time": None if info.create_time is None else info.create_time.isoformat(),
    }


def _model_dict(model: ModelInfo) -> dict[str, object]:
    return {
        "name": model.name,
        "adaptation": model.adaptation,
        "checkpoint": model.checkpoint,
        "create_time": None if model.create_time is None else model.create_time.isoformat(),
        "sha256": model.sha256,
        "size": model.size,
        "labels": list(model.labels),
        "owner": model.owner,
        "pinned": model.pinned,
        "shared_with": list(model.shared_with),
        "genotype": model.genotype,
        "report": None if model.report is None else asdict(model.report),
    }
