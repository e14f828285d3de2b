"""`metanas checkpoints` and `metanas models`: checkpoints and models of a server."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.adapting import describe, show
from metanas_client.cli.exits import OK
from metanas_client.cli.output import add_force, check_output
from metanas_client.cli.screen import Screen
from metanas_client.resources import Checkpoint, ModelInfo
from metanas_client.sync import Client
from metanas_client.text import number, size


def add_commands(commands: Any, environment: Mapping[str, str]) -> None:
    """Declare the commands."""
    parser = commands.add_parser("checkpoints", help="list the checkpoints of the server")
    _finish(parser, environment, checkpoints)

    models = commands.add_parser("models", help="list, download and delete models")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser("list", help="list the models, the latest first")
    parser.add_argument("--limit", type=int, metavar="N", help="largest number of models")
    _finish(parser, environment, list_models)
    parser = actions.add_parser("get", help="download a model")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--out", type=Path, default=Path("model.onnx"), help="file to write (model.onnx)"
    )
    add_force(parser)
    _finish(parser, environment, get_model)
    parser = actions.add_parser("delete", help="delete models")
    parser.add_argument("names", nargs="+", metavar="NAME")
    _finish(parser, environment, delete_models)


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
        model = client.model(arguments.name)
    model.save(arguments.out)
    if screen.as_json:
        screen.json({**describe(model), "file": str(arguments.out)})
    else:
        show(model, arguments.out, screen)
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
    made = "" if model.create_time is None else f"{model.create_time:%Y-%m-%d %H:%M:%S} UTC"
    return model.name, made, model.checkpoint, str(len(model.labels)), size(model.size)


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
