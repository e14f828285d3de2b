"""`metanas checkpoints`, `adaptations` and `models`: what a server has."""

import argparse
from collections.abc import Mapping
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
from metanas_client.resources import AdaptationInfo, Checkpoint, ModelInfo
from metanas_client.sync import Client
from metanas_client.text import number, size
from metanas_data.suggest import whole_number


def add_commands(commands: Any, environment: Mapping[str, str]) -> None:
    """Declare the commands."""
    parser = commands.add_parser("checkpoints", help="list the checkpoints of the server")
    _finish(parser, environment, checkpoints)
    _add_adaptations(commands, environment)

    models = commands.add_parser("models", help="list, download, delete and publish models")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser("list", help="list the models, the latest first")
    _add_limit(parser)
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
    publishing.add_actions(actions, environment)


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
        columns = ("name", "state", "made", "checkpoint", "classes", "images", "result")
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
        ended = [client.adaptation(name).cancel() for name in arguments.names]
    if screen.as_json:
        screen.json([_adaptation_dict(each) for each in ended])
    else:
        screen.table(("name", "state"), [(each.name, each.state.value) for each in ended])
    return OK


def list_models(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models list`."""
    with Client(**shared.connection(arguments)) as client:
        models = list(islice(client.models(), arguments.limit))
    if screen.as_json:
        screen.json([_model_dict(model) for model in models])
    else:
        columns = ("name", "made", "checkpoint", "classes", "size")
        screen.table(columns, [_model_row(model) for model in models])
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
    with Client(**shared.connection(arguments)) as client:
        for name in arguments.names:
            client.delete_model(name)
    if screen.as_json:
        screen.json({"deleted": arguments.names})
    else:
        screen.text(f"deleted {', '.join(arguments.names)}")
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
        model.name,
        _time(model.create_time),
        model.checkpoint,
        str(len(model.labels)),
        size(model.size),
    )


def _adaptation_row(info: AdaptationInfo) -> tuple[str, ...]:
    return (
        info.name,
        info.state.value,
        _time(info.create_time),
        info.checkpoint,
        str(len(info.labels)),
        str(info.examples),
        info.model or ("" if info.fault is None else info.fault.reason),
    )


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


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
        "genotype": model.genotype,
        "report": None if model.report is None else asdict(model.report),
    }
