"""`metanas models export`, `push` and `card`, and `metanas sign`: model files for other tools."""

import argparse
import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanas_client.cli import arguments as shared
from metanas_client.cli.arguments import add_force, check_output
from metanas_client.cli.exits import OK
from metanas_client.cli.screen import Screen
from metanas_client.extras import needs
from metanas_client.model import Model, write_atomically
from metanas_client.sync import Client

if TYPE_CHECKING:
    from metanas_client.onnx.model_file import ModelFile


def add_actions(actions: Any, environment: Mapping[str, str]) -> None:
    """Declare the actions of `metanas models`."""
    parser = actions.add_parser(
        "export",
        help="write a model into a model repository of Triton",
        description="Writes a folder with the file, its configuration (config.pbtxt) and its "
        "labels into a model repository of Triton Inference Server.",
    )
    text = "folder of the repository"
    parser.add_argument("--triton", type=Path, required=True, metavar="FOLDER", help=text)
    add_force(parser)
    _finish(parser, environment, export)
    parser = actions.add_parser(
        "push",
        help="load a model into a running Triton",
        description="Sends the file and its configuration to a Triton Inference Server, which has "
        "to run with --model-control-mode=explicit.",
    )
    text = "its gRPC port"
    parser.add_argument("--triton", required=True, metavar="HOST:PORT", help=text)
    _finish(parser, environment, push)
    parser = actions.add_parser(
        "card", help="write the card of a model for a model hub, in Markdown"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="README.md (default: print it)")
    add_force(parser)
    _finish(parser, environment, card)


def add_commands(commands: Any) -> None:
    """Declare `metanas sign`."""
    parser = commands.add_parser(
        "sign",
        help="sign a model file",
        description="Writes a signed statement (in-toto, DSSE, Ed25519) beside the file: its "
        "SHA-256, checkpoint, options and versions. `metanas verify --key` checks it. Make a key: "
        "openssl genpkey -algorithm ed25519 -out key.pem",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--key", type=Path, required=True, metavar="PEM", help="private key")
    text = "file to write (MODEL.onnx.intoto.jsonl)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    add_force(parser)
    shared.add_json(parser)
    parser.set_defaults(run=sign)


def export(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models export`."""
    model, file = _open(arguments)
    from metanas_client.publish.repository import write_repository

    name = arguments.name or _name(model)
    place = write_repository(arguments.triton, name, file, model.onnx, force=arguments.force)
    _tell(screen, {"model": name, "folder": str(place)}, f"{name} is in {place}")
    return OK


def push(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models push`."""
    model, file = _open(arguments)
    from metanas_client.publish.convert import config_of, load_request
    from metanas_client.publish.repository import check_name
    from metanas_client.publish.transport import load_model

    name = arguments.name or _name(model)
    check_name(name)
    request = load_request(name, config_of(file, name), model.onnx)
    asyncio.run(load_model(arguments.triton, request))
    document = {"model": name, "server": arguments.triton}
    _tell(screen, document, f"{name} is loaded at {arguments.triton}")
    return OK


def card(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas models card`."""
    if arguments.out is not None:
        check_output(arguments.out, force=arguments.force)
    model, file = _open(arguments)
    from metanas_client.publish.card import model_card

    name = arguments.name or _name(model)
    text = model_card(name, file, model.info.report)
    if arguments.out is None:
        _tell(screen, {"model": name, "card": text}, text.rstrip())
    else:
        write_atomically(arguments.out, text.encode())
        _tell(screen, {"model": name, "file": str(arguments.out)}, f"card in {arguments.out}")
    return OK


def sign(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run `metanas sign`."""
    with needs("onnx"):
        from metanas_client.onnx.model_file import ModelFile, read_model
    from metanas_client.publish.signature import SUFFIX
    from metanas_client.publish.signature import sign as sign_file

    path: Path = arguments.model
    out = arguments.out or path.with_name(path.name + SUFFIX)
    check_output(out, force=arguments.force)
    onnx = read_model(path)
    facts = ModelFile(onnx, source=str(path)).provenance
    write_atomically(out, sign_file(onnx, path.name, facts, arguments.key).encode())
    _tell(screen, {"model": str(path), "signature": str(out)}, f"signed in {out}")
    return OK


def _finish(parser: argparse.ArgumentParser, environment: Mapping[str, str], run: object) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file, or the name of a model of a server")
    parser.add_argument("--name", metavar="NAME", help="its new name (default: that of MODEL)")
    shared.add_server(parser, environment)
    shared.add_json(parser)
    parser.set_defaults(run=run)


def _open(arguments: argparse.Namespace) -> "tuple[Model, ModelFile]":
    """Read a file, or download a model that no file is named like."""
    with needs("onnx"):
        from metanas_client.onnx.model_file import ModelFile
    if arguments.model.endswith(".onnx") or Path(arguments.model).exists():
        model = Model.load(arguments.model)
    else:
        with Client(**shared.connection(arguments)) as client:
            model = client.model(arguments.model)
    return model, ModelFile(model.onnx, source=model.name)


def _name(model: Model) -> str:
    return Path(model.name).name.removesuffix(".onnx")


def _tell(screen: Screen, document: object, text: str) -> None:
    if screen.as_json:
        screen.json(document)
    else:
        for line in text.split("\n"):
            screen.text(line)
